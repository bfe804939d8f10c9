"""Rate limits of the endpoints: of requests, per peer and in total, and of accepted connections.

The limits are pure: the time is an argument, in monotonic seconds.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import struct
from collections import OrderedDict
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

PEERS = 1024
"""Maximum number of peers remembered; the least recently counted one is dropped first."""


class Pace:
    """A token bucket: *burst* tokens at first, refilled at *rate* per second."""

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = float(burst)
        self._left = self._burst
        self._at: float | None = None

    def wait(self, now: float) -> float:
        """Return the seconds until the next token; 0: one is available."""
        since = 0.0 if self._at is None else now - self._at
        self._left = min(self._burst, self._left + since * self._rate)
        self._at = now
        return max(0.0, (1.0 - self._left) / self._rate)

    def take(self, tokens: float = 1.0) -> None:
        """Take *tokens*; the balance may become negative."""
        self._left -= tokens

    def give_back(self) -> None:
        """Return one token."""
        self._left = min(self._burst, self._left + 1.0)


class Paces:
    """A token bucket per peer."""

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = burst
        self._paces: OrderedDict[str, Pace] = OrderedDict()

    def __len__(self) -> int:
        """Return the number of peers remembered."""
        return len(self._paces)

    def waits(self, peer: str, now: float) -> bool:
        """Return True if *peer* has no token left."""
        pace = self._paces.get(neighbourhood(peer))
        return pace is not None and pace.wait(now) > 0.0

    def take(self, peer: str, now: float) -> None:
        """Take one token of *peer*."""
        name = neighbourhood(peer)
        pace = self._paces.pop(name, None) or Pace(self._rate, self._burst)
        pace.wait(now)
        pace.take()
        self._paces[name] = pace
        while len(self._paces) > PEERS:
            self._paces.popitem(last=False)

    def give_back(self, peer: str) -> None:
        """Return one token of *peer*."""
        pace = self._paces.get(neighbourhood(peer))
        if pace is not None:
            pace.give_back()


LOOPBACK = "loopback"


def neighbourhood(peer: str) -> str:
    """Return the key under which *peer* is counted.

    This is its IPv4 address, its IPv6 /64 network (which one machine has to itself), or ``loopback`` for all loopback
    addresses, since any process of this machine may use each of them.
    """
    try:
        address = ipaddress.ip_address(peer.partition("%")[0])
    except ValueError:
        return peer
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return neighbourhood(str(address.ipv4_mapped))
        if not address.is_loopback:
            return str(ipaddress.IPv6Network((int(address) >> 64 << 64, 64)))
    return LOOPBACK if address.is_loopback else str(address)


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
            connection.setblocking(False)
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
