"""Accepting connections at a door, no faster than is good for the workers beside it.

Everything that costs the master work before a key is known costs whoever wants that work a connection: an answer to
somebody without a key ends it. So the pace at which connections are accepted bounds what strangers can make the master
do. Each peer has a pace of its own. A connection beyond it is *parked*: it is accepted only if its first bytes hold a
valid key, and is closed otherwise, so that an attacker does not lock out a client of the same address. Parking costs
little and has a pace too; beyond that a connection is closed at once. A connection whose client shows a valid key is
not counted. All peers together have a pace as well: beyond that they wait in the kernel's queue. The owner's door has
none.
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

from .pace import Pace, Paces

if TYPE_CHECKING:
    from collections.abc import Callable

QUEUE = 128
"""Connections that wait in the kernel, and that are accepted in one turn of the loop."""
PEER_RATE, PEER_BURST = 30.0, 300.0
"""Connections a second, and at once, of a peer that shows no key: more than probes and the dashboard's files need."""
RATE, BURST = 500.0, 1000.0
"""The same for all of them together."""
PARK_RATE, PARK_BURST = 500.0, 500.0
"""Connections a second, and at once, that are parked."""
MAX_PARKED = 64
"""Connections that are parked at the same time: the oldest makes room."""
PEEK_BYTES = 24 * 1024
"""How many of its first bytes a parked connection's key is looked for in: a whole head."""
PAUSE = 0.5
"""Seconds before another try when there are no descriptors left."""
LONGEST_PAUSE = 0.1
"""Seconds for which nobody is accepted because of the pace: meanwhile a place may have been given back."""


class Limits:
    """The paces of one door."""

    def __init__(self) -> None:
        self.whole = Pace(RATE, BURST)
        self.peers = Paces(PEER_RATE, PEER_BURST)
        self.parking = Pace(PARK_RATE, PARK_BURST)

    def take(self, peer: str, now: float) -> None:
        """Count a connection of *peer*."""
        self.whole.take()
        self.peers.take(peer, now)

    def known(self, peer: str) -> None:
        """Let a connection of *peer* not count: it has shown a key."""
        self.whole.give_back()
        self.peers.give_back(peer)


class Listener:
    """Accepts at *sock*, and gives each connection a protocol of *arrival*. *limits*: None: whoever comes, at once.
    *opens*: whether bytes hold a valid key; None: that cannot be seen (TLS), and no connection is parked.
    """

    def __init__(
        self,
        sock: socket.socket,
        arrival: Callable[[], asyncio.BaseProtocol],
        limits: Limits | None = None,
        opens: Callable[[bytes], bool] | None = None,
    ) -> None:
        self._sock = sock
        self._arrival = arrival
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._arriving: set[asyncio.Task[object]] = set()
        self._opens = opens
        self._parked: dict[socket.socket, str] = {}
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
            connection.setblocking(False)  # noqa: FBT003
            if limits is None:
                self._admit(connection)
            elif limits.peers.waits(address[0], now):
                self._park(connection, address[0], limits.parking, now)
            else:
                limits.take(address[0], now)
                self._admit(connection)

    def _admit(self, connection: socket.socket) -> None:
        task = self._loop.create_task(self._arrive(connection))
        self._arriving.add(task)
        task.add_done_callback(self._arriving.discard)

    def _park(self, connection: socket.socket, peer: str, parking: Pace, now: float) -> None:
        if self._opens is None or parking.wait(now):
            connection.close()
            return
        parking.take()
        self._parked[connection] = peer
        self._loop.add_reader(connection.fileno(), self._look, connection)
        if len(self._parked) > MAX_PARKED:
            oldest = next(iter(self._parked))
            self._unpark(oldest)
            oldest.close()

    def _unpark(self, connection: socket.socket) -> str:
        self._loop.remove_reader(connection.fileno())
        return self._parked.pop(connection)

    def _look(self, connection: socket.socket) -> None:
        """Admit a parked connection if its first bytes hold a valid key, else close it."""
        try:
            head = connection.recv(PEEK_BYTES, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            head = b""
        peer = self._unpark(connection)
        if self._limits is None or self._opens is None or not self._opens(head):
            connection.close()
            return
        self._limits.take(peer, self._loop.time())  # given back when the key is shown
        self._admit(connection)

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
        for connection in list(self._parked):
            self._unpark(connection)
            connection.close()

    async def wait_closed(self) -> None:
        """Return when the last one that was accepted has its protocol."""
        if self._arriving:
            await asyncio.wait(self._arriving)
