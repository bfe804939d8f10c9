"""The worker channel: each type of ``wire.worker_protocol`` with mutated fields, garbage, floods and descriptors."""

from __future__ import annotations

import select
import socket
import time
from typing import TYPE_CHECKING, Any

from . import riders, values
from .sockets import seqpackets

if TYPE_CHECKING:
    from collections.abc import Iterator
    from random import Random

MESSAGES: list[dict[str, Any]] = [
    {"type": "ready", "ready": True},
    {"type": "ready", "ready": False},
    {"type": "notify", "fields": {"STATUS": "well", "READY": "1"}},
    {"type": "notify", "fields": {"EXTEND_TIMEOUT_USEC": "1000000"}},
    {"type": "notify", "fields": {"X_CSERVICE_CHECK": "127.0.0.1:1"}},
    {"type": "trigger", "id": "1.1", "name": "version", "args": [], "options": {}},
    {"type": "trigger", "id": "1.2", "name": "tick", "args": [{"a": [1, 2]}], "options": {"b": "c"}},
    {"type": "trigger", "id": "1.3", "name": "events", "args": [], "options": {"count": 3}},
    {"type": "broadcast", "id": "1.4", "message": {"text": "all"}, "group": None},
    {"type": "broadcast", "id": "1.5", "message": [1, 2, 3], "group": "hostile"},
    {"type": "got", "id": "b1", "taken": True},
    {"type": "taken", "id": "1.1"},
    {"type": "answer", "id": "1.1", "result": {"version": "1"}},
    {"type": "answer", "id": "1.1", "error": {"code": "bad_request", "message": "no", "hint": ""}},
    {"type": "master"},
    {"type": "message", "id": "b1", "message": "x"},
    {"type": "state", "state": "serving"},
    {"type": "stop", "timeout": 1.0, "reason": "restart"},
]
FLOOD_SECONDS = 0.3
ENDS = ("half-close", "close", "empty")
"""After these nothing more may be read: they come late in a batch."""


def inputs(random: Random, count: int) -> Iterator[dict[str, Any]]:
    """Datagrams; now and then a flood, descriptors, or the end of one direction."""
    for number in range(count):
        data = values.datagram(random, random.choice(MESSAGES))
        how = random.random()
        if how < 0.01:
            yield {"do": "flood", "data": data}
        elif how < 0.05 and number > count * 9 // 10:
            yield {"do": random.choice(ENDS)}
        else:
            yield {"do": "send", "data": data, "rider": random.choice(riders.KINDS) if how > 0.85 else ""}


class Target:
    """The worker's end of its channel."""

    def __init__(self) -> None:
        self.violations: list[str] = []
        self.ended = False
        """The worker is of no more use, and is to end after the batch."""
        found = seqpackets()
        self._sock = found[0] if found else socket.socketpair()[0]

    def perform(self, given: dict[str, Any]) -> bool:
        """Carry out one input."""
        if given["do"] in ENDS:
            self.ended = True
            return end(self._sock, given["do"])
        if given["do"] == "flood":
            return flood(self._sock, given["data"])
        select.select([], [self._sock], [], 0.05)
        return riders.send(self._sock, given["data"], given["rider"])


def end(sock: socket.socket, how: str) -> bool:
    """Close one direction or both, or send what looks like the end."""
    if how == "empty":
        return riders.send(sock, b"", "")
    try:
        sock.shutdown(socket.SHUT_WR if how == "half-close" else socket.SHUT_RDWR)
    except OSError:
        return False
    return True


def flood(sock: socket.socket, data: bytes) -> bool:
    """Send *data* as often as the peer takes it, for a moment."""
    end = time.monotonic() + FLOOD_SECONDS
    taken = 0
    while time.monotonic() < end:
        if riders.send(sock, data, ""):
            taken += 1
        else:
            select.select([], [sock], [], 0.01)
    return taken > 0
