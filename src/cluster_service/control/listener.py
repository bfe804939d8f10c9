"""Rate limits for accepting connections, which protect the workers on the same machine.

An answer to a client without a valid key ends its connection. All work that the master does before authentication
therefore costs the client a connection, and the rate of accepted connections limits that work. Each peer has its own
rate limit. A connection beyond it is *parked*: it is admitted only if its first bytes contain a valid key, and closed
otherwise, so that an attacker cannot lock out a client with the same address. Parking is cheap and has its own rate
limit, beyond which connections are closed immediately. A connection that shows a valid key is not counted. A common
limit applies to all peers; beyond it connections wait in the kernel's queue. The Unix endpoint has no limit.
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

from .pace import Pace, Paces

if TYPE_CHECKING:
    from collections.abc import Callable

QUEUE = 128
"""Length of the kernel's accept queue, and maximum number of connections accepted per loop iteration."""
PEER_RATE, PEER_BURST = 30.0, 300.0
"""Connections per second, and burst, of a peer without a key: more than probes and the dashboard need."""
RATE, BURST = 500.0, 1000.0
"""Connections per second, and burst, of all peers together."""
PARK_RATE, PARK_BURST = 500.0, 500.0
"""Parked connections per second, and burst."""
MAX_PARKED = 64
"""Maximum number of parked connections; the oldest is closed for a new one."""
PEEK_BYTES = 24 * 1024
"""Number of leading bytes searched for the key of a parked connection: a complete head."""
PAUSE = 0.5
"""Seconds before the next attempt when no descriptors or memory are left."""
LONGEST_PAUSE = 0.1
"""Maximum pause due to the common rate limit, in seconds: a place may be given back meanwhile."""


class Limits:
    """The rate limits of one endpoint."""

    def __init__(self) -> None:
        self.whole = Pace(RATE, BURST)
        self.peers = Paces(PEER_RATE, PEER_BURST)
        self.parking = Pace(PARK_RATE, PARK_BURST)

    def take(self, peer: str, now: float) -> None:
        """Count a connection of *peer*."""
        self.whole.take()
        self.peers.take(peer, now)

    def known(self, peer: str) -> None:
        """Stop counting a connection of *peer*, which has sent a valid key."""
        self.whole.give_back()
        self.peers.give_back(peer)


class Listener:
    """Accepts connections on *sock* and gives each a protocol made by *arrival*.

    *limits*: None: accept every connection immediately. *opens*: returns True if the given bytes contain a valid key;
    None: the bytes are not readable (TLS), and connections over the limit are closed rather than parked.
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
            except OSError:  # no descriptors or memory left: retry later
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
        self._limits.take(peer, self._loop.time())  # given back when the key is verified
        self._admit(connection)

    async def _arrive(self, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._arrival, connection)
        except OSError:  # the connection is already closed
            connection.close()

    def close(self) -> None:
        """Stop accepting connections."""
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
        """Wait until every accepted connection has its protocol."""
        if self._arriving:
            await asyncio.wait(self._arriving)
