"""The notify socket: the fields of sd_notify(3) and of ours with hostile values, garbage, floods and descriptors."""

from __future__ import annotations

import select
import socket
from typing import TYPE_CHECKING, Any

from . import riders, values
from .channel import flood
from .sockets import notify_address

if TYPE_CHECKING:
    from collections.abc import Iterator
    from random import Random

FIELDS = (
    "READY", "STATUS", "RELOADING", "STOPPING", "EXTEND_TIMEOUT_USEC", "WATCHDOG", "WATCHDOG_USEC", "MAINPID", "ERRNO",
    "BUSERROR", "MONOTONIC_USEC", "FDSTORE", "FDSTOREREMOVE", "FDNAME", "FDPOLL", "BARRIER", "EXIT_STATUS",
    "X_CSERVICE_CHECK", "NOTIFYACCESS", "", " ", "ready", "READY READY",
)  # fmt: skip
USUAL = {
    "READY": "1", "STATUS": "well", "EXTEND_TIMEOUT_USEC": "1000000", "FDSTORE": "1", "BARRIER": "1",
    "X_CSERVICE_CHECK": "127.0.0.1:1",
}  # fmt: skip


def inputs(random: Random, count: int) -> Iterator[dict[str, Any]]:
    """Datagrams of lines; now and then a flood or descriptors."""
    for _ in range(count):
        lines = []
        for _ in range(random.choice((1, 1, 2, 5, 200))):
            field = random.choice(FIELDS)
            content = USUAL.get(field, "1") if random.random() < 0.3 else str(values.value(random, 4))[:20000]
            lines.append(f"{field}={content}")
        data = "\n".join(lines).encode("utf-8", "surrogatepass")[:70000]
        if random.random() < 0.2:
            data = values.garble(random, data)
        how = random.random()
        if how < 0.01:
            yield {"do": "flood", "data": data}
        else:
            yield {"do": "send", "data": data, "rider": random.choice(riders.KINDS) if how > 0.8 else ""}


class Target:
    """The worker's NOTIFY_SOCKET, or another's: *name*."""

    def __init__(self, name: str) -> None:
        self.violations: list[str] = []
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            self._sock.connect(notify_address(name))
            self.connected = True
        except OSError:
            self.connected = False  # a stranger may not even reach it

    def perform(self, given: dict[str, Any]) -> bool:
        """Carry out one input."""
        if not self.connected:
            return False
        if given["do"] == "flood":
            return flood(self._sock, given["data"])
        select.select([], [self._sock], [], 0.05)
        return riders.send(self._sock, given["data"], given["rider"])
