"""Accepting connections at a door, no faster than is good for the workers beside it.

Everything that costs the master work before a key is known costs whoever wants that work a connection: an answer to
somebody without a key ends it. So the pace at which connections are accepted bounds what strangers can make the master
do. Each peer has a pace of its own: when it comes faster it is hung up on at once, which costs next to nothing, and
nobody else notices. A connection that shows a key that opens is not counted. All peers together have a pace as well:
beyond that they wait in the kernel's queue. The owner's door has none.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from .pace import Pace, Paces

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

QUEUE = 128
"""Connections that wait in the kernel, and that are accepted in one turn of the loop."""
PEER_RATE, PEER_BURST = 30.0, 300.0
"""Connections a second, and at once, of a peer that shows no key: more than probes and the dashboard's files need."""
RATE, BURST = 500.0, 1000.0
"""The same for all of them together."""
PAUSE = 0.5
"""Seconds before another try when there are no descriptors left."""
LONGEST_PAUSE = 0.1
"""Seconds for which nobody is accepted because of the pace: meanwhile a place may have been given back."""


class Limits:
    """The paces of one door."""

    def __init__(self) -> None:
        self.whole = Pace(RATE, BURST)
        self.peers = Paces(PEER_RATE, PEER_BURST)

    def known(self, peer: str) -> None:
        """Let a connection of *peer* not count: it has shown a key."""
        self.whole.give_back()
        self.peers.give_back(peer)


class Listener:
    """Accepts at *sock*, and gives each connection a protocol of *arrival*. *limits*: None: whoever comes, at once."""

    def __init__(
        self, sock: socket.socket, arrival: Callable[[], asyncio.BaseProtocol], limits: Limits | None = None
    ) -> None:
        self._sock = sock
        self._arrival = arrival
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._arriving: set[asyncio.Task[object]] = set()
        self._open = True
        sock.listen(QUEUE)
        self._resume()

    def _resume(self) -> None:
        self._timer = None
        if self._open:
            self._loop.add_reader(self._sock.fileno(), self._accept)

    def _pause(self, seconds: float) -> None:
        self._loop.remove_reader(self._sock.fileno())
        self._timer = self._loop.call_later(seconds, self._resume)

    def _accept(self) -> None:
        limits = self._limits
        for _ in range(QUEUE):
            now = self._loop.time()
            if limits is not None and (wait := limits.whole.wait(now)):
                self._pause(min(wait, LONGEST_PAUSE))
                return
            try:
                connection, address = self._sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError:  # no descriptors, or no memory: it may be better in a moment
                self._pause(PAUSE)
                return
            if limits is not None:
                if limits.peers.waits(address[0], now):
                    connection.close()
                    continue
                limits.whole.take()
                limits.peers.take(address[0], now)
            connection.setblocking(False)  # noqa: FBT003
            task = self._loop.create_task(self._arrive(connection))
            self._arriving.add(task)
            task.add_done_callback(self._arriving.discard)

    async def _arrive(self, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._arrival, connection)
        except OSError:  # it has gone already
            connection.close()

    def close(self) -> None:
        """Accept no more."""
        if not self._open:
            return
        self._open = False
        self._loop.remove_reader(self._sock.fileno())
        if self._timer is not None:
            self._timer.cancel()

    async def wait_closed(self) -> None:
        """Return when the last one that was accepted has its protocol."""
        if self._arriving:
            await asyncio.wait(self._arriving)
