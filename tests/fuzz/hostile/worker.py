"""The hostile worker, and with ``--stranger`` an unrelated process: performs batches as its master tells it to.

FUZZ_CONTROL names a Unix socket. The process sends a line that introduces it, then reads orders, a JSON object a line:

    {"boundary", "seed", "count"}   perform the inputs of that seed; answer {"performed", "taken", "violations"}
    {"end": "exit" | "kill" | "forge"}   exit with a code; SIGKILL this process; write forged log lines and exit
"""

from __future__ import annotations

import importlib
import json
import os
import random
import signal
import socket
import sys
from typing import Any

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def main() -> None:
    """Perform until the control socket ends."""
    stranger = "--stranger" in sys.argv
    name = sys.argv[-1] if stranger else os.environ.get("NOTIFY_SOCKET", "")
    control = socket.socket(socket.AF_UNIX)
    control.connect(os.environ["FUZZ_CONTROL"])
    stream = control.makefile("rw", encoding="ascii", newline="\n")
    if not stranger:  # said by each: once one of a release has, the others are not taken to be ready without it
        notify = importlib.import_module("hostile.notify").Target(name)
        notify.perform({"do": "send", "data": b"READY=1", "rider": ""})
    _say(stream, {"pid": os.getpid(), "uid": os.getuid(), "notify": name, "stranger": stranger})
    targets: dict[str, Any] = {}
    for line in stream:
        order = json.loads(line)
        if "end" in order:
            _end(order["end"])
        module = importlib.import_module(f"hostile.{order['boundary']}")
        target = targets.get(order["boundary"])
        if target is None:
            target = module.Target(name) if order["boundary"] == "notify" else module.Target()
            targets[order["boundary"]] = target
        performed = taken = 0
        source = random.Random(order["seed"])
        for given in module.inputs(source, order["count"]):
            taken += bool(target.perform(given))
            performed += 1
        violations, target.violations = target.violations, []
        if getattr(target, "ended", False) and not violations:
            os._exit(4)
        _say(stream, {"performed": performed, "taken": taken, "violations": violations[:20]})


def _say(stream: Any, message: dict[str, Any]) -> None:
    stream.write(json.dumps(message) + "\n")
    stream.flush()


def _end(how: str) -> None:
    values = importlib.import_module("hostile.values")
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "forge":
        for forgery in values.FORGERIES:
            for descriptor in (1, 2):
                os.write(descriptor, f"said{forgery} said".encode("utf-8", "surrogatepass"))
        os.write(2, b"\n")
    os._exit(3)


if __name__ == "__main__":
    main()
