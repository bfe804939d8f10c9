"""Shared ports without kernel support: ``bind`` and ``listen`` of Python sockets send requests to the guardian.

Only with ``--share python``. When a Python program binds a shared address, the socket of the service replaces its own
under the same descriptor. Code that binds without ``socket.socket`` (an extension with its own bind) is not covered.

- The descriptor number and its inheritance are kept, and so is the timeout of the Python object. O_NONBLOCK belongs to
  the shared socket, so the guardian sets it if the program had set it, and never clears it.
- Errors are those of ``bind``: the same OSError, number and text.
- What cannot be shared (port 0, other families) is bound as usual, and so is everything once the service has ended.
- gevent and eventlet have their own socket classes, with the bind method of the C class.
"""

from __future__ import annotations

import fcntl
import functools
import os
import socket
from _socket import socket as Socket  # noqa: N812 - the C class, whose methods are not patched
from array import array
from threading import RLock
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Tuple

from cluster_service.wire import addresses
from cluster_service.wire import worker_protocol as wire

from .descriptors import OwnedDescriptor
from .reporting import warn

if TYPE_CHECKING:
    from types import ModuleType

    from .runtime import Runtime

_FAMILIES = (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)


class Guardian:
    """The socket pair for ports: one request, then its reply; one thread of one process at a time."""

    def __init__(self, fd: int) -> None:
        self._pair = OwnedDescriptor(fd)
        self._lock = RLock()
        self._asking = False
        self._warned = False
        self._turn = OwnedDescriptor(os.memfd_create("cservice-ports")) if hasattr(os, "memfd_create") else None
        os.register_at_fork(after_in_child=self._after_fork_in_child)

    def ask(self, request: Dict[str, Any]) -> Tuple[Optional[Dict[str, Any]], Optional[int]]:
        """Return the reply and the descriptor that came with it.

        Returns (None, None) if the service has ended, if the program has closed the descriptor, and in a signal handler
        that interrupts another request, where waiting would deadlock.
        """
        with self._lock:
            if self._asking:
                return None, None
            if not self._pair.is_ours():
                self._warn()
                return None, None
            self._asking = True
            try:
                data, ancillary = self._exchange(request)
            except OSError:
                return None, None
            finally:
                self._asking = False
        received = array("i")
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                received.frombytes(content[: len(content) - len(content) % received.itemsize])
        reply = wire.decode(b'{"type":"reply",' + data[1:]) if data else None
        return reply, received[0] if received else None

    def _exchange(self, request: Dict[str, Any]) -> Tuple[bytes, List[Tuple[int, int, bytes]]]:
        turn = self._turn.fd if self._turn is not None and self._turn.is_ours() else None
        if turn is not None:
            fcntl.lockf(turn, fcntl.LOCK_EX)  # forked children use the same pair
        pair = Socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, fileno=self._pair.fd)
        try:
            pair.sendall(wire.encode(request))
            data, ancillary, _, _ = pair.recvmsg(wire.LIMIT, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC)
            return data, ancillary
        finally:
            pair.detach()  # used by its number, like the channel
            if turn is not None:
                fcntl.lockf(turn, fcntl.LOCK_UN)

    def _warn(self) -> None:
        if not self._warned:
            self._warned = True
            warn(
                "the program has closed the descriptor through which its ports are shared: it binds its ports alone. "
                "Do not close descriptors that the program has not opened, or use --share seccomp"
            )

    def _after_fork_in_child(self) -> None:
        self._lock = RLock()
        self._asking = False


_guardian: List[Guardian] = []
"""The guardian's end in this mode, at most one."""


def share_ports(fd: int) -> None:
    """Make every socket of this process share its address through the guardian at the other end of *fd*."""
    _guardian[:] = [Guardian(fd)]
    share_class(socket.socket)


def share_class(socket_class: Any) -> None:
    """Make sockets of *socket_class*, a subclass of the C class, share their addresses."""
    guardian = _guardian[0]

    def bind(self: socket.socket, address: Any, /) -> None:
        request = _bind_request(self, address)
        if request is None:
            return Socket.bind(self, address)
        reply, shared = guardian.ask(request)
        if reply is None:
            return Socket.bind(self, address)
        if not reply["ok"]:
            raise OSError(reply["errno"], os.strerror(reply["errno"]))
        if shared is None:
            return Socket.bind(self, address)
        try:
            os.dup2(shared, self.fileno(), inheritable=os.get_inheritable(self.fileno()))
        finally:
            os.close(shared)
        return None

    def listen(self: socket.socket, backlog: int = 128, /) -> None:
        if self.family in _FAMILIES and self.type == socket.SOCK_STREAM and self.fileno() >= 0:
            inode = os.fstat(self.fileno()).st_ino
            reply, _ = guardian.ask({"type": "listen", "inode": inode, "backlog": max(0, backlog)})
            if reply is not None and not reply["ok"]:
                raise OSError(reply["errno"], os.strerror(reply["errno"]))
            if reply is not None and reply.get("shared"):
                return
        Socket.listen(self, backlog)

    bind.__doc__, listen.__doc__ = Socket.bind.__doc__, Socket.listen.__doc__
    socket_class.bind, socket_class.listen = bind, listen


def report_listening(uvloop: ModuleType, runtime: Runtime) -> None:
    """Report where uvloop listens: it binds with Python sockets, but has its own listen."""
    del runtime
    if not _guardian:
        return
    original = uvloop.Loop.create_server

    @functools.wraps(original)
    async def create_server(self: Any, *args: Any, **kwargs: Any) -> Any:
        server = await original(self, *args, **kwargs)
        for each in server.sockets or ():
            if each.type == socket.SOCK_STREAM:
                inode = os.fstat(each.fileno()).st_ino
                _guardian[0].ask({"type": "listen", "inode": inode, "backlog": kwargs.get("backlog", 100)})
        return server

    uvloop.Loop.create_server = create_server


def _bind_request(sock: socket.socket, address: Any) -> Optional[Dict[str, Any]]:
    """Return the request for the guardian; None if the address is not shareable or invalid."""
    if sock.family not in _FAMILIES or sock.type not in (socket.SOCK_STREAM, socket.SOCK_DGRAM) or sock.fileno() < 0:
        return None
    v6only = sock.family == socket.AF_INET6 and bool(sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY))
    canonical = _canonical(sock, address, v6only=v6only)
    if canonical is None:
        return None
    return {
        "type": "bind",
        "family": int(sock.family),
        "kind": int(sock.type),
        "address": canonical,
        "v6only": v6only,
        "nonblocking": not os.get_blocking(sock.fileno()),
    }


def _canonical(sock: socket.socket, address: Any, *, v6only: bool) -> Optional[str]:
    """Return the address in the guardian's canonical form. Raises gaierror for an unknown host, as bind does."""
    if sock.family == socket.AF_UNIX:
        if sock.type != socket.SOCK_STREAM or not isinstance(address, (str, bytes)) or not address:
            return None
        name = os.fsdecode(address)
        return f"unix:@{name[1:]}" if name.startswith("\0") else f"unix:{os.path.abspath(name)}"
    if (
        not isinstance(address, tuple)
        or len(address) < 2
        or not isinstance(address[1], int)
        or not 0 < address[1] < 65536
    ):
        return None
    if not isinstance(address[0], (str, bytes)) or any(address[2:]):
        return None
    host = os.fsdecode(address[0]) or ("0.0.0.0" if sock.family == socket.AF_INET else "::")
    host = "255.255.255.255" if host == "<broadcast>" else host
    found = socket.getaddrinfo(host, address[1], sock.family, sock.type, 0, socket.AI_PASSIVE)[0][4]
    host = str(found[0])
    if "%" in host or any(found[2:]):
        return None  # a link-local address is only valid for one interface
    kind = "udp" if sock.type == socket.SOCK_DGRAM else "tcp"
    return str(addresses.Address(kind, host, address[1], dual=host == "::" and not v6only))


_GREEN_CLASSES = {"gevent._socket3": "_wrefsocket", "eventlet.greenio.base": "_original_socket"}
"""Module -> the class of the sockets underneath its green ones."""


def share_green_sockets(module: ModuleType, runtime: Runtime) -> None:
    """Make the sockets of gevent or eventlet share their addresses."""
    if runtime.share == "python":
        share_class(getattr(module, _GREEN_CLASSES[module.__name__]))
