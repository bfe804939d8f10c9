"""Whole attacks, each bounded in time: for the fault machine, which has one going on beside its own faults."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from typing import TYPE_CHECKING, Any

from . import calls, channel, memory, notify, riders, values
from .sockets import seqpackets

if TYPE_CHECKING:
    from collections.abc import Iterator
    from random import Random

CHILD_SECONDS = 4
"""Lifetime of a child that nothing but SIGKILL ends."""
SILENT_SECONDS = 2
ASKED = 200
DEEDS = (
    "flood", "garbage", "descriptors", "extend", "memory", "ports", "calls", "notify", "child", "ask", "silent",
    "forge", "kill",
)  # fmt: skip


def inputs(random: Random, count: int) -> Iterator[dict[str, Any]]:
    """So many deeds, each with a seed of its own."""
    for _ in range(count):
        yield {"do": random.choice(DEEDS), "seed": random.getrandbits(32)}


class Target:
    """The deeds of the worker that it stands in."""

    def __init__(self) -> None:
        self.violations: list[str] = []
        self._channel = channel.Target()
        self._notify = notify.Target(os.environ.get("NOTIFY_SOCKET", ""))
        self._memory = memory.Target()
        self._calls = calls.Target()
        self._sock = seqpackets()[0]

    def perform(self, given: dict[str, Any]) -> bool:
        """Carry out one deed."""
        source = random.Random(given["seed"])
        deed = getattr(self, f"_{given['do']}", None)
        return bool(deed(source)) if deed is not None else self._several(given["do"], source)

    def _several(self, do: str, source: Random) -> bool:
        targets: dict[str, tuple[Any, Any, int]] = {
            "garbage": (channel, self._channel, 200),
            "notify": (notify, self._notify, 200),
            "memory": (memory, self._memory, 200),
            "calls": (calls, self._calls, 20),
        }
        module, target, count = targets[do]
        done = [target.perform(each) for each in module.inputs(source, count) if each["do"] not in channel.ENDS]
        self.violations += target.violations
        return any(done)

    def _flood(self, source: Random) -> bool:
        return channel.flood(self._sock, values.datagram(source, source.choice(channel.MESSAGES)))

    def _descriptors(self, source: Random) -> bool:
        return sum(riders.send(self._sock, b'{"type":"x"}', source.choice(riders.KINDS)) for _ in range(20)) > 0

    def _extend(self, _source: Random) -> bool:
        """Ask for more time than a number holds."""
        digits = "9" * 400
        riders.send(self._sock, json.dumps({"type": "notify", "fields": {"EXTEND_TIMEOUT_USEC": digits}}).encode(), "")
        return self._notify.perform({"do": "send", "data": f"EXTEND_TIMEOUT_USEC={digits}".encode(), "rider": ""})

    def _ports(self, source: Random) -> bool:
        """Hundreds of ports, bound and closed."""
        return sum(self._calls.perform({"do": "series", "number": source.getrandbits(32)}) for _ in range(3)) == 3

    def _child(self, _source: Random) -> bool:
        """Leave a child in a session of its own that ignores SIGTERM."""
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                time.sleep(CHILD_SECONDS)
            os._exit(0)
        return True

    def _ask(self, source: Random) -> bool:
        """Ask for much, and stand still while the answers come."""
        for number in range(ASKED):
            identity = f"{source.getrandbits(40)}.{number}"
            request = {"type": "trigger", "id": identity, "name": "events", "args": [], "options": {}}
            riders.send(self._sock, json.dumps(request).encode(), "")
        return self._silent(source)

    def _silent(self, _source: Random) -> bool:
        """Stand still for a while: another process of ours ends that."""
        me = os.getpid()
        if os.fork() == 0:
            time.sleep(SILENT_SECONDS)
            os.kill(me, signal.SIGCONT)
            os._exit(0)
        os.kill(me, signal.SIGSTOP)
        return True

    def _forge(self, _source: Random) -> bool:
        for forgery in values.FORGERIES:
            os.write(2, f"said{forgery} said".encode("utf-8", "surrogatepass"))
        return os.write(2, b"\n") == 1

    def _kill(self, _source: Random) -> bool:
        os.kill(os.getpid(), signal.SIGKILL)
        return True
