"""Putting listening sockets aside: for servers that cannot be told to take no more connections.

Every descriptor of a listening socket is made one of another socket, which nobody knows of. The server goes on to watch
and to accept, and gets nothing; what waits on the shared socket is the other workers'. With what ``put`` returns, the
socket can be taken ``back``.
"""

from __future__ import annotations

import _socket as socket  # the C module: it is what it is, whatever replaces the other
import struct
from typing import Container, Dict, Iterable, List, NamedTuple, Optional, Set

from .shadowed import library
from .unpatched import os, select


class Watch(NamedTuple):
    """An epoll of this process that watches a descriptor."""

    epoll: int
    events: int
    data: int
    """What it tells with them: the descriptor for Python and libuv, a number of its own for others."""


class Aside(NamedTuple):
    """A listening socket that was put aside."""

    fd: int
    """Where the server has it."""
    stand_in: int
    """The inode of the socket that stands there now."""
    address: object
    kept: int
    """A descriptor of the socket itself; -1: it is not to be taken back."""
    watches: List[Watch]


_stand_ins: Dict[int, object] = {}
"""Inode → the address for which it stands."""


def put(fd: int, *, keep: bool, at: Optional[Container[object]] = None) -> Optional[Aside]:
    """Put the socket of *fd* aside, if it listens, and there are descriptors for it; else return None.

    One that is aside already stays so. *keep*: it is to be taken back; then one that is aside, or that could not be
    taken back, is None: somebody may wait in its ``accept`` for ever. *at*: only if its place (``place_of``) is one of
    these.
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
                os.close(os.dup(fd))  # taking it out of an epoll needs one more; at a stop it is tried without, too
            watches = _unwatch(fd)
            if keep and family == socket.AF_UNIX and not watches:
                # Everybody could reach the stand-in, whom the file's mode keeps away. Servers that watch by epoll take
                # nobody from there; those that poll or select would.
                os.close(kept)
                return None
            aside = Aside(fd, os.fstat(nowhere.fileno()).st_ino, address, kept, watches)
            _stand_ins[aside.stand_in] = address
            os.dup2(nowhere.fileno(), fd, inheritable=os.get_inheritable(fd))
        finally:
            nowhere.close()
    except OSError:  # a connection that has ended meanwhile; there is no descriptor left
        if kept >= 0:
            os.close(kept)
        return None
    return aside


def back(aside: Aside) -> None:
    """Give the server its socket back, unless it has closed it meanwhile."""
    stand_in, watches = -1, aside.watches
    try:
        if os.fstat(aside.fd).st_ino == aside.stand_in:
            stand_in = os.dup(aside.fd)
            meanwhile = _unwatch(aside.fd)  # it was watched again
            again = {watch.epoll for watch in meanwhile}
            watches = meanwhile + [watch for watch in aside.watches if watch.epoll not in again]
    except OSError:
        pass  # it has just been closed, or there is no descriptor left
    try:
        if os.fstat(aside.fd).st_ino == aside.stand_in:
            os.dup2(aside.kept, aside.fd, inheritable=os.get_inheritable(aside.fd))
            for watch in watches:
                _watch(aside.fd, watch)
    except OSError:
        pass
    if stand_in >= 0:
        with borrowed(stand_in) as each:
            each.shutdown(socket.SHUT_RDWR)  # who waits for it in poll or select looks again
        os.close(stand_in)
    let_go(aside)
    del _stand_ins[aside.stand_in]


def let_go(aside: Aside) -> None:
    """Keep the socket itself no longer: it will not be taken back."""
    os.close(aside.kept)


def place_of(address: object) -> object:
    """Where a socket listens, or its connection has come in: a port, or the name of a Unix socket."""
    return address[1] if isinstance(address, tuple) else address


def places(fds: Iterable[int]) -> Set[object]:
    """Return where the connections among *fds* have come in; of those that go out, a place that is no listener's."""
    found = set()
    for fd in fds:
        try:
            with borrowed(fd) as each:
                each.getpeername()
                found.add(place_of(each.getsockname()))
        except OSError:
            pass  # it is none, or has ended meanwhile
    return found


def _nowhere(family: int) -> socket.socket:
    """Return a listening socket of *family* (a server may look at that) whose address nobody is told: it is not shared,
    and nobody is asked for it, who may just be asked for another (``ports``).
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
    except OSError:  # there is none in many containers
        nowhere.bind(("::ffff:127.0.0.1", 0))


def _unwatch(fd: int) -> List[Watch]:
    """Take *fd* out of every epoll of this process: what it is now would be told of there, even when it is replaced."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{name}") == "anon_inode:[eventpoll]":
                found += _watches(int(name), fd)
                with select.epoll.fromfd(os.dup(int(name))) as watching:
                    watching.unregister(fd)
        except OSError:
            pass  # it was the listing's own, or watches others
    return found


def _watches(epoll: int, fd: int) -> List[Watch]:
    """How *epoll* watches *fd*: ``tfd: 5 events: 19 data: 5 …`` for each that it watches (proc_pid_fdinfo(5))."""
    with open(f"/proc/self/fdinfo/{epoll}", encoding="ascii") as info:
        lines = [line.split() for line in info if line.startswith("tfd:")]
    return [Watch(epoll, int(words[3], 16), int(words[5], 16)) for words in lines if int(words[1]) == fd]


def _watch(fd: int, watch: Watch) -> None:
    """Have it watched as it was: by the system call itself, which needs no descriptor and tells anybody's number."""
    packed = os.uname().machine in ("x86_64", "AMD64")
    event = struct.pack("=IQ" if packed else "@IQ", watch.events, watch.data)
    library("ctypes").CDLL(None).epoll_ctl(watch.epoll, _EPOLL_CTL_ADD, fd, event)


_EPOLL_CTL_ADD = 1
"""epoll_ctl(2)."""


class borrowed:  # noqa: N801 - reads as a function
    """Somebody else's descriptor as a socket, for a moment; it is left open."""

    def __init__(self, fd: int) -> None:
        # Non-blocking as an object only: the default timeout of a program would make the descriptor itself so.
        self._socket = socket.socket(type=socket.SOCK_STREAM | socket.SOCK_NONBLOCK, fileno=fd)

    def __enter__(self) -> socket.socket:
        return self._socket

    def __exit__(self, *_: object) -> None:
        self._socket.detach()
