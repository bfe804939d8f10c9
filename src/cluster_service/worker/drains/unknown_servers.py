"""Draining from outside, by kernel information about descriptors, for servers that the runtime cannot modify.

- Stop accepting: the listening sockets are replaced (``listener_parking``).
- Each connection gets a grace period, whether nothing has arrived yet or it is idle. A request that takes longer is
  being answered, and the server's own stop waits for it.
- A client that keeps its connection busy gets no ``Connection: close``. After the grace period the connection is shut
  down for reading between two requests; the server sees its end and closes it.

``UnknownServers`` stands for all other ways to accept connections: asyncio's streams, gevent's servers, a loop around
``accept``. A program without a SIGTERM handler would exit in the middle of requests. So it stops accepting, and its
connections with unanswered data are waited for until the deadline of the worker, because the runtime does not know
their protocol.
"""

from __future__ import annotations

import _socket as socket  # see ``listener_parking``
import struct
from typing import Callable, Dict, List, NamedTuple, Optional

from ..descriptors import borrowed_socket, sockets
from ..listener_parking import park
from ..unpatched import allocate_lock, time
from . import RunningServer
from .open_connections import IDLE_GRACE, NEW_GRACE, SETTLE_SECONDS, connections, shut_for_reading

_TICK = 0.05
"""Seconds between two checks of the descriptors."""
_BUSY_TICK = 0.01
"""The same while busy connections are to be shut down between two requests."""
_QUIET_MS = range(4, 25)
"""Milliseconds after an answer in which a busy connection is shut down: after its end, well before the next request."""
_SENT, _RECEIVED = 44, 52
"""Offsets in ``struct tcp_info`` of the milliseconds since data was last sent and received."""
_BYTES_ACKED, _BYTES_RECEIVED = 120, 128
_ESTABLISHED = 1


class OutsideDrain:
    """The connections accepted from the listening sockets of this process. Create it before the drain; use it once.

    Connections tracked by the runtime (``open_connections``) are excluded, because they are drained separately.
    *patient*: no other component waits for answers in progress, so this one waits for all requests.
    """

    def __init__(self, *, patient: bool = False) -> None:
        self._patient = patient
        self._began = time.monotonic()
        self._addresses: List[object] = []
        self._received: Dict[int, int] = {}
        """Descriptor of a connection -> the number of bytes received at the first check."""
        self._goes_on = False
        """True if a client has sent something since the first check."""

    def drain(self, deadline: float) -> None:
        """Stop accepting; return when there is no connection to wait for, at the latest at *deadline*."""
        self.stop_accepting()
        self._wait(self._claims, deadline)

    def settle(self, deadline: float) -> None:
        """Wait until no request is in progress, at most ``SETTLE_SECONDS``."""
        self._wait(self._is_asked, min(deadline, time.monotonic() + SETTLE_SECONDS))

    def has_open_requests(self) -> bool:
        """Return True if a request is in progress."""
        return self._any(self._is_asked)

    def stop_accepting(self) -> None:
        """Make the server accept no further connections. Repeated calls do nothing."""
        if self._addresses:
            return
        for fd in sockets():
            parked = park(fd, keep=False)
            if parked is not None:
                self._addresses.append(parked.address)

    def _wait(self, claims: Callable[[_ConnectionState], bool], deadline: float) -> None:
        never = allocate_lock()
        never.acquire()
        while time.monotonic() < deadline and self._any(claims):
            never.acquire(timeout=_BUSY_TICK if self._goes_on and self._shuts_busy() else _TICK)

    def _any(self, claims: Callable[[_ConnectionState], bool]) -> bool:
        known = connections.filenos()
        found = False
        for fd in sockets():
            try:
                with borrowed_socket(fd) as each:
                    stream = each.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE) == socket.SOCK_STREAM
                    if stream and fd not in known and self._is_ours(each):
                        found = claims(self._look(each)) or found  # this may shut it down, so check each
            except OSError:
                pass  # closed meanwhile
        return found

    def _shuts_busy(self) -> bool:
        """Return True if the grace period of busy connections has expired."""
        return self._patient and time.monotonic() >= self._began + IDLE_GRACE

    def _is_ours(self, each: socket.socket) -> bool:
        each.getpeername()
        name = each.getsockname()
        if each.family == socket.AF_UNIX:
            return name in self._addresses
        return any(isinstance(address, tuple) and address[1] == name[1] for address in self._addresses)

    def _look(self, each: socket.socket) -> _ConnectionState:
        waited = time.monotonic() - self._began
        info = b"" if each.family == socket.AF_UNIX else each.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 192)
        if len(info) < _BYTES_RECEIVED + 8:  # also on an old kernel
            return _ConnectionState(each, waited)
        (sent_ms,) = struct.unpack_from("=I", info, _SENT)
        (received_ms,) = struct.unpack_from("=I", info, _RECEIVED)
        acked, received = struct.unpack_from("=QQ", info, _BYTES_ACKED)
        first = self._received.setdefault(each.fileno(), received)
        self._goes_on |= received > first
        return _ConnectionState(each, waited, info[0], sent_ms, received_ms, acked, received, received > first)

    def _claims(self, seen: _ConnectionState) -> bool:
        """Return True if a connection may still bring a request, or awaits an answer that no other part waits for."""
        if seen.state is None:
            return seen.waited < IDLE_GRACE
        if not seen.received:
            return seen.waited < NEW_GRACE
        if self._patient and seen.is_asked():
            return True
        if self._shuts_busy() and seen.is_between_requests():
            return not shut_for_reading(seen.connection)
        return min(seen.sent_ms, seen.received_ms) < IDLE_GRACE * 1000

    def _is_asked(self, seen: _ConnectionState) -> bool:
        """Return True if a request is in progress, or the first one may be on its way."""
        if seen.state is None:
            return False
        return seen.waited < NEW_GRACE if not seen.received else seen.is_asked()


class _ConnectionState(NamedTuple):
    """Kernel information about a connection; ``state`` is None if there is none."""

    connection: socket.socket
    waited: float
    """Seconds since the drain began."""
    state: Optional[int] = None
    sent_ms: int = 0
    """Milliseconds since data was last sent."""
    received_ms: int = 0
    acked: int = 0
    received: int = 0
    """Bytes received."""
    goes_on: bool = False
    """True if the client has sent something since the first check."""

    def is_asked(self) -> bool:
        """Return True if the last data came from the client, and the connection is still open."""
        if self.state != _ESTABLISHED or not self.received:
            return False
        return self.acked <= 1 or self.received_ms < self.sent_ms  # 1: the kernel may count the handshake

    def is_between_requests(self) -> bool:
        """Return True if a client that continues to send requests has just received an answer.

        A long answer to a request from before the first check does not count, as its client has sent nothing since.
        """
        return self.goes_on and self.sent_ms in _QUIET_MS and self.sent_ms < self.received_ms


class UnknownServers(RunningServer):
    """All listening sockets of the process. Create and start it in the main thread, where most loops run."""

    def __init__(self) -> None:
        self._outside = OutsideDrain(patient=True)

    def begin(self) -> None:
        """Stop accepting."""
        self._outside.stop_accepting()

    def drain(self, deadline: float) -> None:
        """Wait until all requests are answered, at most until *deadline*."""
        self._outside.drain(deadline)

    def has_open_requests(self) -> bool:
        """Return True if a request is in progress."""
        return self._outside.has_open_requests()

    def settle(self, deadline: float) -> None:
        """Wait until no request is in progress."""
        self._outside.settle(deadline)
