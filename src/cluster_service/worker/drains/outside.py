"""Draining a server from outside, by what the kernel knows of its descriptors: for servers that are not Python.

- Stop accepting: its listening sockets are put aside (``aside``).
- Each connection gets its time (``grace``): one from which nothing has come yet, and one that is quiet by now.
  A request that takes longer than that is being answered, and the server's own stop waits for it.
"""

from __future__ import annotations

import _socket as socket  # see ``aside``
import struct
from typing import List

from ..aside import borrowed, put
from ..sockets import sockets
from ..unpatched import allocate_lock, time
from .grace import IDLE_GRACE, NEW_GRACE

_TICK = 0.05
"""Seconds between two looks at the descriptors."""
_SENT, _RECEIVED = 44, 52
"""Where milliseconds since data was last sent, and received, stand in ``struct tcp_info``."""
_BYTES_ACKED, _BYTES_RECEIVED = 120, 128
_ESTABLISHED = 1


class Outside:
    """The connections that this process's listening sockets have accepted. Made before the drain, drained once.

    *patient*: nobody else waits for the answers that are under way, so one that has been asked for is waited for here.
    """

    def __init__(self, *, patient: bool = False) -> None:
        self._patient = patient
        self._began = time.monotonic()
        self._addresses: List[object] = []

    def drain(self, deadline: float) -> None:
        """Stop accepting; return when no connection has a claim to wait for, and at *deadline* at the latest."""
        self.stop_accepting()
        never = allocate_lock()
        never.acquire()
        while time.monotonic() < deadline and any(self._claims(fd) for fd in sockets()):
            never.acquire(timeout=_TICK)

    def stop_accepting(self) -> None:
        """Have the server accept nobody any more. The second time it does nothing."""
        if self._addresses:
            return
        for fd in sockets():
            aside = put(fd, keep=False)
            if aside is not None:
                self._addresses.append(aside.address)

    def _claims(self, fd: int) -> bool:
        """Whether the connection *fd*, if it is one of the server's, may still bring a request."""
        try:
            with borrowed(fd) as each:
                stream = each.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE) == socket.SOCK_STREAM
                if not stream or not self._is_ours(each):
                    return False
                if each.family == socket.AF_UNIX:
                    return time.monotonic() < self._began + IDLE_GRACE
                info = each.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 192)
                return _may_ask(info, time.monotonic() - self._began) or (self._patient and _has_asked(info))
        except OSError:
            return False  # it has ended meanwhile

    def _is_ours(self, each: socket.socket) -> bool:
        each.getpeername()
        name = each.getsockname()
        if each.family == socket.AF_UNIX:
            return name in self._addresses
        return any(isinstance(address, tuple) and address[1] == name[1] for address in self._addresses)


def _may_ask(info: bytes, waited: float) -> bool:
    if len(info) < _BYTES_RECEIVED + 8:
        return waited < IDLE_GRACE  # an old kernel
    (received,) = struct.unpack_from("=Q", info, _BYTES_RECEIVED)
    if not received:
        return waited < NEW_GRACE
    (sent_ms,) = struct.unpack_from("=I", info, _SENT)
    (received_ms,) = struct.unpack_from("=I", info, _RECEIVED)
    return bool(min(sent_ms, received_ms) < IDLE_GRACE * 1000)


def _has_asked(info: bytes) -> bool:
    """Whether what came last on a connection came from the client, and the client is still there."""
    if len(info) < _BYTES_RECEIVED + 8 or info[0] != _ESTABLISHED:
        return False
    acked, received = struct.unpack_from("=QQ", info, _BYTES_ACKED)
    (sent_ms,) = struct.unpack_from("=I", info, _SENT)
    (received_ms,) = struct.unpack_from("=I", info, _RECEIVED)
    return bool(received and (acked <= 1 or received_ms < sent_ms))  # 1: the kernel may count the handshake
