"""How an attack on the TCP endpoint affects the workers: python -m benchmarks.door [--rounds N] [--seconds S].

Measure the workers' latency under a constant, modest load, alternating in each round: (a) without an attack; (b) during
an attack on the endpoint (``tests/tools/attack.py``: garbage, slow headers, huge bodies, wrong keys, responses that are
never read, and 2000 open connections); (c) during the same attack on a port of a minimal process that accepts
connections and closes them. The attackers use CPU time of this machine in (b) and (c), so compare (b) with (c).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from benchmarks.measures import EXAMPLES, line, processor
from tests.tools.attack import HELD, Attack, BareDoor
from tests.tools.load import Load
from tests.tools.ports import free_port
from tests.tools.service import Service

if TYPE_CHECKING:
    from collections.abc import Iterator

RATE = 100
"""Requests per second to the workers."""
KEY = "a key of more than sixteen letters"


class Figure(NamedTuple):
    """Result of one period of load. Times are in seconds."""

    median: float
    p99: float
    failed: int
    door: float = 0.0
    """CPU use of the attacked process, as a fraction of a core."""
    attackers: float = 0.0
    """CPU use of the attackers, as a fraction of a core."""


@contextlib.contextmanager
def attacked(port: int) -> Iterator[int]:
    """Attack *port* from another process; yield its pid once it has begun to open the connections that it holds."""
    command = [sys.executable, "-m", "benchmarks.door", "--attack", str(port)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as attacker:
        try:
            for _ in attacker.stdout or ():  # one line: the attack has begun
                break
            yield attacker.pid
        finally:
            attacker.communicate()


def attack(port: int) -> None:
    """Attack *port* until stdin ends."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, HELD + 1000), hard))
    with Attack(port) as attackers:
        attackers.all_held.wait()
        print("attacked", flush=True)
        sys.stdin.read()


def measured(port: int, seconds: float) -> Figure:
    """Measure the workers' latency for *seconds*."""
    with Load(f"http://127.0.0.1:{port}/", rate=RATE) as load:
        time.sleep(seconds)
        result = load.finish()
    return Figure(result.median, result.p99, result.failed)


def under_attack(port: int, seconds: float, door: int, pid: int) -> Figure:
    """Measure the same during an attack on *door*, a port of the process *pid*."""
    with attacked(door) as attacker:
        before, began = [busy(each) for each in (pid, attacker)], time.monotonic()
        figure = measured(port, seconds)
        used = [busy(each) - was for each, was in zip((pid, attacker), before, strict=True)]
    seconds = time.monotonic() - began
    return figure._replace(door=used[0] / seconds, attackers=used[1] / seconds)


def busy(pid: int) -> float:
    """Return the seconds of CPU time used by all threads of *pid*."""
    return sum(processor(int(thread)) for thread in os.listdir(f"/proc/{pid}/task"))


def run(rounds: int, seconds: float) -> Iterator[str]:
    """Yield the rows of the table."""
    port, door = free_port(), free_port()
    figures: list[tuple[Figure, Figure, Figure]] = []
    with tempfile.TemporaryDirectory() as directory:
        key = Path(directory) / "key"
        key.write_text(KEY)
        key.chmod(0o600)
        options = ("-w", "2", "--port", str(door), "--access-key-file", str(key), "--log-file", f"{directory}/log")
        with Service(*options, "--env", f"PORT={port}", "http_server.py", cwd=EXAMPLES) as service:
            service.serving(2)
            master = service.json("info")["master_pid"]
            for _ in range(rounds):
                peace = measured(port, seconds)
                ours = under_attack(port, seconds, door, master)
                with BareDoor() as bare:
                    figures.append((peace, ours, under_attack(port, seconds, bare.port, bare.pid)))
    for what, name in (("median", "median"), ("99th percentile", "p99")):
        a, b, c = ([getattr(three[place], name) for three in figures] for place in range(3))
        yield line(
            f"workers' latency during an attack on the endpoint: {what}",
            f"{statistics.median(b) * 1000:.1f} ms (without attack {statistics.median(a) * 1000:.1f})",
            f"the same attack on the reference: {statistics.median(c) * 1000:.1f} ms",
            statistics.median(ours / bare for ours, bare in zip(b, c, strict=True)),
        )
    for what, name in (("the attacked process", "door"), ("the attackers", "attackers")):
        b, c = (statistics.median(getattr(three[place], name) for three in figures) for place in (1, 2))
        yield line(f"CPU use of {what}", f"{b * 100:.0f} % of a core", f"{c * 100:.0f} %", None)
    failed = [sum(three[place].failed for three in figures) for place in range(3)]
    yield line(f"failed requests (without attack: {failed[0]})", str(failed[1]), str(failed[2]), None)


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.door", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=6.0, help="of load, in each part of a round")
    parser.add_argument("--attack", type=int, metavar="PORT", help="only be the attackers of that port")
    given = parser.parse_args()
    if given.attack is not None:
        attack(given.attack)
        return
    with tempfile.TemporaryDirectory(prefix="cs-") as directory:
        os.environ["XDG_RUNTIME_DIR"] = os.environ["XDG_STATE_HOME"] = directory
        print("| what | cluster-service | compared with | ratio |\n|--|--|--|--|", flush=True)
        for row in run(given.rounds, given.seconds):
            print(row, flush=True)


if __name__ == "__main__":
    main()
