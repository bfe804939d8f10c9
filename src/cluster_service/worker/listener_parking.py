"""Replacement of listening sockets, to stop accepting in servers that have no way to do so.

Every descriptor of a listening socket is replaced by another socket whose address no client knows. The server continues
to poll and accept, but gets no connections; those on the shared socket go to other workers. ``restore`` restores the
socket from the value that ``park`` returned.
"""

from __future__ import annotations

import _socket as socket  # the C module, which monkey patching leaves alone
import struct
from typing import Container, Dict, Iterable, List, NamedTuple, Optional, Set

from .descriptors import borrowed_socket
from .unpatched import library, os, select


class Watch(NamedTuple):
    """An epoll instance of this process that watches a descriptor."""

    epoll: int
    events: int
    data: int
    """The epoll user data: the descriptor in Python and libuv, an own value in others."""


class ParkedListener(NamedTuple):
    """A listening socket that was replaced."""

    fd: int
    """The descriptor that the server uses."""
    replacement: int
    """The inode of the replacement socket."""
    address: object
    original: int
    """A duplicate descriptor of the original socket; -1: it will not be restored."""
    watches: List[Watch]


_replacements: Dict[int, object] = {}
"""Inode of a replacement -> the address of the original socket."""


def park(fd: int, *, keep: bool, at: Optional[Container[object]] = None) -> Optional[ParkedListener]:
    """Replace the socket of *fd* and return the data to restore it; None if it does not listen or on an error.

    A socket that is already replaced stays so. *keep*: it will be restored; then return None for a socket that is
    already replaced, or whose restoration could fail because a thread may block in its ``accept``. *at*: replace it
    only if its place (``port_of``) is one of these.
    """
    original = -1
    try:
        with borrowed_socket(fd) as each:
            address, family = each.getsockname(), each.family
            if not each.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                return None
        stands_for = _replacements.get(os.fstat(fd).st_ino)
        if keep and (stands_for is not None or os.get_blocking(fd) or (at is not None and port_of(address) not in at)):
            return None
        if stands_for is not None:
            return ParkedListener(fd, -1, stands_for, -1, [])
        replacement = _make_replacement(family)
        try:
            os.set_blocking(replacement.fileno(), os.get_blocking(fd))
            if keep:
                original = os.dup(fd)
                os.close(os.dup(fd))  # removal from an epoll needs one spare descriptor; at a stop it is tried without
            watches = _unwatch(fd)
            if keep and family == socket.AF_UNIX and not watches:
                # Any process could connect to the replacement, even one that the mode of the socket file keeps out. A
                # server that uses epoll would not accept from it, one that uses poll or select would.
                os.close(original)
                return None
            parked = ParkedListener(fd, os.fstat(replacement.fileno()).st_ino, address, original, watches)
            _replacements[parked.replacement] = address
            os.dup2(replacement.fileno(), fd, inheritable=os.get_inheritable(fd))
        finally:
            replacement.close()
    except OSError:  # the connection has ended, or no descriptor is left
        if original >= 0:
            os.close(original)
        return None
    return parked


def restore(parked: ParkedListener) -> None:
    """Restore the server's socket, unless the server has closed it."""
    replacement, watches = -1, parked.watches
    try:
        if os.fstat(parked.fd).st_ino == parked.replacement:
            replacement = os.dup(parked.fd)
            meanwhile = _unwatch(parked.fd)  # the server may have registered it again
            again = {watch.epoll for watch in meanwhile}
            watches = meanwhile + [watch for watch in parked.watches if watch.epoll not in again]
    except OSError:
        pass  # it was just closed, or no descriptor is left
    try:
        if os.fstat(parked.fd).st_ino == parked.replacement:
            os.dup2(parked.original, parked.fd, inheritable=os.get_inheritable(parked.fd))
            for watch in watches:
                _watch(parked.fd, watch)
    except OSError:
        pass
    if replacement >= 0:
        with borrowed_socket(replacement) as each:
            each.shutdown(socket.SHUT_RDWR)  # wakes threads that wait for it in poll or select
        os.close(replacement)
    discard(parked)
    del _replacements[parked.replacement]


def discard(parked: ParkedListener) -> None:
    """Close the duplicate of the original socket, which will not be restored."""
    os.close(parked.original)


def port_of(address: object) -> object:
    """Return where a socket listens or its connection arrived: a port, or the name of a Unix socket."""
    return address[1] if isinstance(address, tuple) else address


def connected_ports(fds: Iterable[int]) -> Set[object]:
    """Return the places of the connected sockets in *fds*; those of outgoing ones match no listener."""
    found = set()
    for fd in fds:
        try:
            with borrowed_socket(fd) as each:
                each.getpeername()
                found.add(port_of(each.getsockname()))
        except OSError:
            pass  # not connected, or closed meanwhile
    return found


def _make_replacement(family: int) -> socket.socket:
    """Return a listening socket of *family*, which a server may check, with a private address.

    It is not shared, and not requested from the guardian, because this may run during another request
    (``port_sharing``).
    """
    replacement = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        _bind(replacement)
        replacement.listen(1)
    except OSError:
        replacement.close()
        raise
    return replacement


def _bind(replacement: socket.socket) -> None:
    if replacement.family != socket.AF_INET6:
        replacement.bind(("127.0.0.1", 0) if replacement.family == socket.AF_INET else "")
        return
    try:
        replacement.bind(("::1", 0))
    except OSError:  # many containers have no ::1
        replacement.bind(("::ffff:127.0.0.1", 0))


def _unwatch(fd: int) -> List[Watch]:
    """Remove *fd* from every epoll of this process, which would otherwise keep reporting the replaced socket."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{name}") == "anon_inode:[eventpoll]":
                found += _watches(int(name), fd)
                with select.epoll.fromfd(os.dup(int(name))) as watching:
                    watching.unregister(fd)
        except OSError:
            pass  # the descriptor of the directory, or an epoll that does not watch it
    return found


def _watches(epoll: int, fd: int) -> List[Watch]:
    """Return how *epoll* watches *fd*, from lines ``tfd: 5 events: 19 data: 5 …`` (proc_pid_fdinfo(5))."""
    with open(f"/proc/self/fdinfo/{epoll}", encoding="ascii") as info:
        lines = [line.split() for line in info if line.startswith("tfd:")]
    return [Watch(epoll, int(words[3], 16), int(words[5], 16)) for words in lines if int(words[1]) == fd]


def _watch(fd: int, watch: Watch) -> None:
    """Register *fd* again by a direct system call, which needs no descriptor and can set any user data."""
    packed = os.uname().machine in ("x86_64", "AMD64")
    event = struct.pack("=IQ" if packed else "@IQ", watch.events, watch.data)
    library("ctypes").CDLL(None).epoll_ctl(watch.epoll, _EPOLL_CTL_ADD, fd, event)


_EPOLL_CTL_ADD = 1
"""From epoll_ctl(2)."""


