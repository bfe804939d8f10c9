"""Replacement of listening sockets, to stop accepting in servers that have no way to do so.

Every descriptor of a listening socket is replaced by another socket whose address no client knows. The server continues
to poll and accept, but gets no connections; those on the shared socket go to other workers. ``back`` restores the
socket from the value that ``put`` returned.
"""

from __future__ import annotations

import _socket as socket  # the C module, which monkey patching leaves alone
import struct
from typing import Container, Dict, Iterable, List, NamedTuple, Optional, Set

from .descriptors import borrowed
from .unpatched import library, os, select


class Watch(NamedTuple):
    """An epoll instance of this process that watches a descriptor."""

    epoll: int
    events: int
    data: int
    """The epoll user data: the descriptor in Python and libuv, an own value in others."""


class Aside(NamedTuple):
    """A listening socket that was replaced."""

    fd: int
    """The descriptor that the server uses."""
    stand_in: int
    """The inode of the replacement socket."""
    address: object
    kept: int
    """A duplicate descriptor of the original socket; -1: it will not be restored."""
    watches: List[Watch]


_stand_ins: Dict[int, object] = {}
"""Inode of a replacement -> the address of the original socket."""


def put(fd: int, *, keep: bool, at: Optional[Container[object]] = None) -> Optional[Aside]:
    """Replace the socket of *fd* and return the data to restore it; None if it does not listen or on an error.

    A socket that is already replaced stays so. *keep*: it will be restored; then return None for a socket that is
    already replaced, or whose restoration could fail because a thread may block in its ``accept``. *at*: replace it
    only if its place (``place_of``) is one of these.
    """
    kept = -1
    try:
        with borrowed(fd) as each:
            address, family = each.getsockname(), each.family
            if not each.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                return None
        stands_for = _stand_ins.get(os.fstat(fd).st_ino)
        if keep and (stands_for is not None or os.get_blocking(fd) or (at is not None and place_of(address) not in at)):
            return None
        if stands_for is not None:
            return Aside(fd, -1, stands_for, -1, [])
        nowhere = _nowhere(family)
        try:
            os.set_blocking(nowhere.fileno(), os.get_blocking(fd))
            if keep:
                kept = os.dup(fd)
                os.close(os.dup(fd))  # removal from an epoll needs one spare descriptor; at a stop it is tried without
            watches = _unwatch(fd)
            if keep and family == socket.AF_UNIX and not watches:
                # Any process could connect to the replacement, even one that the mode of the socket file keeps out. A
                # server that uses epoll would not accept from it, one that uses poll or select would.
                os.close(kept)
                return None
            aside = Aside(fd, os.fstat(nowhere.fileno()).st_ino, address, kept, watches)
            _stand_ins[aside.stand_in] = address
            os.dup2(nowhere.fileno(), fd, inheritable=os.get_inheritable(fd))
        finally:
            nowhere.close()
    except OSError:  # the connection has ended, or no descriptor is left
        if kept >= 0:
            os.close(kept)
        return None
    return aside


def back(aside: Aside) -> None:
    """Restore the server's socket, unless the server has closed it."""
    stand_in, watches = -1, aside.watches
    try:
        if os.fstat(aside.fd).st_ino == aside.stand_in:
            stand_in = os.dup(aside.fd)
            meanwhile = _unwatch(aside.fd)  # the server may have registered it again
            again = {watch.epoll for watch in meanwhile}
            watches = meanwhile + [watch for watch in aside.watches if watch.epoll not in again]
    except OSError:
        pass  # it was just closed, or no descriptor is left
    try:
        if os.fstat(aside.fd).st_ino == aside.stand_in:
            os.dup2(aside.kept, aside.fd, inheritable=os.get_inheritable(aside.fd))
            for watch in watches:
                _watch(aside.fd, watch)
    except OSError:
        pass
    if stand_in >= 0:
        with borrowed(stand_in) as each:
            each.shutdown(socket.SHUT_RDWR)  # wakes threads that wait for it in poll or select
        os.close(stand_in)
    let_go(aside)
    del _stand_ins[aside.stand_in]


def let_go(aside: Aside) -> None:
    """Close the duplicate of the original socket, which will not be restored."""
    os.close(aside.kept)


def place_of(address: object) -> object:
    """Return where a socket listens or its connection arrived: a port, or the name of a Unix socket."""
    return address[1] if isinstance(address, tuple) else address


def places(fds: Iterable[int]) -> Set[object]:
    """Return the places of the connected sockets in *fds*; those of outgoing ones match no listener."""
    found = set()
    for fd in fds:
        try:
            with borrowed(fd) as each:
                each.getpeername()
                found.add(place_of(each.getsockname()))
        except OSError:
            pass  # not connected, or closed meanwhile
    return found


def _nowhere(family: int) -> socket.socket:
    """Return a listening socket of *family*, which a server may check, with a private address.

    It is not shared, and the guardian is not asked for it, because this may run during another request (``ports``).
    """
    nowhere = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        _bind(nowhere)
        nowhere.listen(1)
    except OSError:
        nowhere.close()
        raise
    return nowhere


def _bind(nowhere: socket.socket) -> None:
    if nowhere.family != socket.AF_INET6:
        nowhere.bind(("127.0.0.1", 0) if nowhere.family == socket.AF_INET else "")
        return
    try:
        nowhere.bind(("::1", 0))
    except OSError:  # many containers have no ::1
        nowhere.bind(("::ffff:127.0.0.1", 0))


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


