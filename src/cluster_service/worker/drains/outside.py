"""Draining a server from outside, by what the kernel knows of its descriptors: for servers that are not Python.

- Stop accepting: every descriptor of a listening socket is made one of another socket, which nobody knows of. The
  server goes on to watch and to accept, and gets nothing. What waits on the shared socket is the other workers'.
- Each connection gets its time (``grace``): one from which nothing has come yet, and one that is quiet by now.
  A request that takes longer than that is being answered, and the server's own stop waits for it.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import time
from _socket import socket as Socket  # noqa: N812 - the C class, whose methods do the real thing
from _thread import allocate_lock
from typing import List

from ..sockets import sockets
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
            try:
                with borrowed(fd) as each:
                    if each.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                        self._addresses.append(each.getsockname())
                        with _nowhere(each.family) as nowhere:
                            os.set_blocking(nowhere.fileno(), os.get_blocking(fd))
                            _unwatch(fd)
                            os.dup2(nowhere.fileno(), fd, inheritable=os.get_inheritable(fd))
            except OSError:
                pass  # a connection that has ended meanwhile

    def _claims(self, fd: int) -> bool:
        """Whether the connection *fd*, if it is one of the server's, may still bring a request."""
        try:
            with borrowed(fd) as each:
                if each.type != socket.SOCK_STREAM or not self._is_ours(each):
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


def _nowhere(family: int) -> socket.socket:
    """Return a listening socket of *family* (a server may look at that) whose address nobody is told: it is not shared,
    and nobody is asked for it, who may just be asked for another (``ports``).
    """
    nowhere = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    loopback = {socket.AF_INET: ("127.0.0.1", 0), socket.AF_INET6: ("::1", 0)}
    Socket.bind(nowhere, loopback.get(socket.AddressFamily(family), ""))
    Socket.listen(nowhere, 1)
    return nowhere


def _unwatch(fd: int) -> None:
    """Take *fd* out of every epoll of this process: what it is now would be told of there, even when it is replaced."""
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{name}") == "anon_inode:[eventpoll]":
                with select.epoll.fromfd(os.dup(int(name))) as watching:
                    watching.unregister(fd)
        except OSError:
            pass  # it was the listing's own, or watches others


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


class borrowed:  # noqa: N801 - reads as a function
    """Somebody else's descriptor as a socket, for a moment; it is left open."""

    def __init__(self, fd: int) -> None:
        self._socket = socket.socket(fileno=fd)

    def __enter__(self) -> socket.socket:
        return self._socket

    def __exit__(self, *_: object) -> None:
        self._socket.detach()
