"""Rate limits for accepting connections, which protect the workers on the same machine.

An answer to a client without a valid key ends its connection. All work that the master does before authentication
therefore costs the client a connection, and the rate of accepted connections limits that work. Each peer has its own
rate limit. A connection beyond it is *parked*: it is admitted only if its first bytes contain a valid key, and closed
otherwise, so that an attacker cannot lock out a client with the same address. A client sends its key a moment after
connecting, so a connection younger than ``GRACE`` is never closed because it is silent; when all parked connections
are that young, further ones wait in the kernel's queue. Checking first bytes has its own rate limit, beyond which
connections are closed unread. A connection that shows a valid key is not counted. A common limit applies to all
peers; beyond it connections wait in the kernel's queue. The Unix endpoint has no limit.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import TYPE_CHECKING, NamedTuple

from .pace import Pace, Paces

if TYPE_CHECKING:
    from collections.abc import Callable

QUEUE = 128
"""Maximum number of connections accepted per loop iteration."""
BACKLOG = 2048
"""Length of the kernel's accept queue: about what a flood opens within the grace period."""
PEER_RATE, PEER_BURST = 30.0, 300.0
"""Connections per second, and burst, of a peer without a key: more than probes and the dashboard need."""
RATE, BURST = 500.0, 192.0
"""Connections per second, and burst, of all peers together: low enough that ``Room`` closes none within the grace."""
PARK_RATE, PARK_BURST = 2.0 * 1024 * 1024, 2.0 * 1024 * 1024
"""Bytes of parked connections per second, and burst, that are searched for a key and contain none."""
LOOK_BYTES = 128
"""Minimum number of bytes that one search counts as."""
MAX_PARKED = 64
"""Maximum number of parked connections; the oldest is closed for a new one when its grace period is over."""
GRACE = 0.1
"""Seconds after it was established during which a parked connection is not closed because it is silent."""
PEEK_BYTES = 24 * 1024
"""Number of leading bytes searched for the key of a parked connection: a complete head."""
PAUSE = 0.5
"""Seconds before the next attempt when no descriptors or memory are left."""
SHORTEST_PAUSE, LONGEST_PAUSE = 0.01, 0.1
"""Limits of a pause due to the rates, in seconds: a place may be given back meanwhile."""
_SILENT_FOR = struct.Struct("=52xI")
"""``tcpi_last_data_recv`` of struct tcp_info (linux/tcp.h): milliseconds since data or the connection arrived."""


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


class _Parked(NamedTuple):
    peer: str
    until: float
    """End of its grace period, in the loop's time."""


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
        self._parked: dict[socket.socket, _Parked] = {}
        """Oldest first."""
        self._open = True
        sock.listen(BACKLOG)
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
            if limits is not None and (wait := max(limits.whole.wait(now), self._crowded(now))):
                self._pause(min(max(wait, SHORTEST_PAUSE), LONGEST_PAUSE))
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
                self._park(connection, address[0], now)
            else:
                limits.take(address[0], now)
                self._admit(connection)

    def _admit(self, connection: socket.socket) -> None:
        task = self._loop.create_task(self._arrive(connection))
        self._arriving.add(task)
        task.add_done_callback(self._arriving.discard)

    def _crowded(self, now: float) -> float:
        """Return the seconds until a parked connection may be closed for a new one; 0: now, or there is room."""
        if len(self._parked) < MAX_PARKED:
            return 0.0
        return max(0.0, next(iter(self._parked.values())).until - now)

    def _park(self, connection: socket.socket, peer: str, now: float) -> None:
        if self._opens is None:
            connection.close()
            return
        head = _first_bytes(connection)
        if head is not None:  # they arrived while the connection was in the queue
            self._judge(connection, peer, head)
            return
        self._parked[connection] = _Parked(peer, now + GRACE - _silent_for(connection))
        self._loop.add_reader(connection.fileno(), self._look, connection)
        if len(self._parked) > MAX_PARKED:
            self._unpark(oldest := next(iter(self._parked)))
            oldest.close()

    def _unpark(self, connection: socket.socket) -> str:
        self._loop.remove_reader(connection.fileno())
        return self._parked.pop(connection).peer

    def _look(self, connection: socket.socket) -> None:
        head = _first_bytes(connection)
        if head is not None:
            self._judge(connection, self._unpark(connection), head)

    def _judge(self, connection: socket.socket, peer: str, head: bytes) -> None:
        """Admit the connection if *head*, its first bytes, contains a valid key; otherwise close it."""
        now = self._loop.time()
        if not head or self._limits is None or self._opens is None or self._limits.parking.wait(now):
            connection.close()
        elif self._opens(head):
            self._limits.take(peer, now)  # given back when the key is verified
            self._admit(connection)
        else:
            self._limits.parking.take(max(len(head), LOOK_BYTES))
            connection.close()

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


def _first_bytes(connection: socket.socket) -> bytes | None:
    """Return the first bytes of *connection* without consuming them; None: none yet; empty: it is closed."""
    try:
        return connection.recv(PEEK_BYTES, socket.MSG_PEEK)
    except (BlockingIOError, InterruptedError):
        return None
    except OSError:
        return b""


def _silent_for(connection: socket.socket) -> float:
    """Return the seconds since *connection* received data or was established, including its time in the queue."""
    try:
        (milliseconds,) = _SILENT_FOR.unpack(connection.getsockopt(socket.SOL_TCP, socket.TCP_INFO, _SILENT_FOR.size))
    except (OSError, struct.error):
        return 0.0
    return float(milliseconds) / 1000.0
