"""The ports pair of ``--share python``: mutated requests to bind and to listen, and replies that stay unread."""

from __future__ import annotations

import json
import os
import select
import socket
from array import array
from typing import TYPE_CHECKING, Any

from . import riders, values
from .channel import ENDS, end
from .places import Places
from .sockets import seqpackets

if TYPE_CHECKING:
    from collections.abc import Iterator
    from random import Random

BIND: dict[str, Any] = {
    "type": "bind", "family": 2, "kind": 1, "address": "127.0.0.1:0", "v6only": False, "nonblocking": False,
}  # fmt: skip
LISTEN: dict[str, Any] = {"type": "listen", "inode": 1, "backlog": 128}
FLOOD = 400


def inputs(random: Random, count: int) -> Iterator[dict[str, Any]]:
    """Requests; most are read, some are not."""
    for number in range(count):
        place = random.choice(Places.KINDS)
        message = {**BIND, "kind": random.choice((1, 1, 2, 5))} if random.random() < 0.7 else LISTEN
        how = random.random()
        if how < 0.4:
            yield {"do": "place", "message": message, "place": place, "number": random.getrandbits(32)}
        elif how < 0.9 or number < count * 9 // 10:
            data = values.datagram(random, message)
            rider = random.choice(riders.KINDS) if random.random() < 0.1 else ""
            yield {"do": "send", "data": data, "rider": rider, "read": random.random() < 0.98}
        elif how < 0.95:
            yield {"do": "flood", "data": values.datagram(random, message)}
        else:
            yield {"do": random.choice(ENDS)}


class Target:
    """The worker's end of its ports pair."""

    def __init__(self) -> None:
        self.violations: list[str] = []
        self.ended = False
        found = seqpackets()
        self._sock = found[1] if len(found) > 1 else None
        self._places = Places()
        self._inodes = [1]

    def perform(self, given: dict[str, Any]) -> bool:
        """Carry out one input."""
        if self._sock is None:
            return False
        if given["do"] in ENDS:
            self.ended = True
            return end(self._sock, given["do"])
        if given["do"] == "flood":
            self.ended = True  # a worker that does not read its replies is cut off
            return sum(riders.send(self._sock, given["data"], "") for _ in range(FLOOD)) > 0
        if given["do"] == "place":
            address = self._places.text(given["place"], given["number"])
            inode = self._inodes[given["number"] % len(self._inodes)]
            message = {**given["message"], "address": address, "inode": inode}
            if not riders.send(self._sock, json.dumps(message).encode(), ""):
                return False
            return self._read()
        sent = riders.send(self._sock, given["data"], given["rider"])
        return self._read() if sent and given["read"] else sent

    def _read(self) -> bool:
        """Read one reply, if one comes; True when it gave a socket."""
        assert self._sock is not None
        if not select.select([self._sock], [], [], 5.0)[0]:
            return False  # it may have been cut off: the next batch tells
        try:
            data, ancillary, _, _ = self._sock.recvmsg(65536, socket.CMSG_SPACE(64), socket.MSG_DONTWAIT)
        except OSError:
            return False
        received = array("i")
        for _, _, content in ancillary:
            received.frombytes(content[: len(content) // 4 * 4])
        for descriptor in received:
            self._inodes = [*self._inodes[-50:], os.fstat(descriptor).st_ino]
            with socket.socket(fileno=descriptor) as given:
                name = given.getsockname()  # not what was asked for: an earlier reply may have been left unread
            if self._places.forbidden_name(name):
                self.violations.append(f"this user could not have bound {name!r}, and was given its socket")
        if data:
            try:
                json.loads(data.decode("utf-8"), parse_constant=_refuse)
            except ValueError as error:
                self.violations.append(f"a reply that is not JSON: {error}: {data[:200]!r}")
        return bool(received)


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
