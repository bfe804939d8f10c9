"""Which socket a ``bind`` gets, whatever way it came: by seccomp, by the runtime in the worker, or from the master.

Laws. The service has one socket for each address. Whoever binds it gets that socket; it is made by the first. A
``bind`` that is refused is refused with a sentence. The service's own doors are never given away.

Not shared, and left to the kernel: port 0 (each caller gets a port of its own), groups (multicast), Unix
datagram sockets (they are mailboxes), sockets bound to one device, and those of another network or root directory.

O_NONBLOCK stands in the open file description, which all users of a socket share. So it is copied from a worker that
is the only user, and otherwise only ever set: an event loop that found its listener blocking would stand still, while
a program that finds it non-blocking sees at most an error that it must know from interrupted connections.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from typing import TYPE_CHECKING, NamedTuple

from . import opening, private, receiving, strangers
from .given import Given
from .holdings import Held
from .paths import Kept, Paths, key_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cluster_service.wire.addresses import Address

    from .holdings import Holdings, Worker
    from .opening import Binder

BACKLOG = 2048
"""The shortest queue of a shared socket; the kernel caps it at net.core.somaxconn."""


class Want(NamedTuple):
    """A worker's wish to bind."""

    address: Address
    kind: int
    """SOCK_STREAM, SOCK_DGRAM or SOCK_SEQPACKET."""
    nonblocking: bool
    binder: Binder | None = None
    """For the path of a Unix socket."""
    path: bytes | None = None
    """The path as the worker wrote it: what ``getsockname`` will give."""
    source: socket.socket | None = None
    """The worker's own socket, whose options count."""


class Refused(Exception):
    """A bind or listen that fails with *number*, and why."""

    def __init__(self, number: int, sentence: str) -> None:
        super().__init__(sentence)
        self.number = number
        self.sentence = sentence


class Told(NamedTuple):
    """Where the news goes."""

    bound: Callable[[Worker, Held], None]
    """It has bound a socket that listens already: it may never ask for more (gunicorn looks at SO_ACCEPTCONN first)."""
    listening: Callable[[Worker, Held], None]
    refused: Callable[[Worker, Address, str], None]
    log: Callable[[str], None]


class Ports:
    """The sockets that are held, as those who bind see them."""

    def __init__(self, holdings: Holdings, told: Told) -> None:
        self._holdings = holdings
        self._told = told
        self.paths = Paths(self._in_use, self.close)
        self.given = Given(holdings, self.paths, told.log)

    def find(self, address: Address) -> Held | None:
        """Return the socket that is held for *address*, or one that was given to us and covers it."""
        return self._holdings.held.get(key_of(address)) or self.given.covering(address)

    def _refuse_clash(self, address: Address) -> None:
        clash = self.given.clash(address)
        if clash:
            raise Refused(errno.EADDRINUSE, clash)

    # ------------------------------------------------------------ workers

    def bind(self, worker: Worker, want: Want) -> Held:
        """Return the socket that *worker* is to have for its bind. Raises Refused, having told of it."""
        try:
            held = self.own(worker, want) if worker.is_private else self._find(want) or self._open(want)
            self._give(worker, held, want)
        except Refused as refusal:
            self._told.refused(worker, want.address, refusal.sentence)
            raise
        if held.address.kind == "udp":
            held.listening = True
            self._told.listening(worker, held)
        elif held.listening and not held.asked:
            self._told.bound(worker, held)
        return held

    def listen(self, worker: Worker, held: Held, backlog: int, binder: Binder | None = None) -> None:
        """Let *held* listen, because *worker* asked for it. Raises Refused, having told of it."""
        try:
            # Clients of a Unix socket see the credentials of whoever has called listen on it (unix(7), SO_PEERCRED).
            with opening.InTheNameOf(binder):
                self._listen(held, backlog)
        except OSError as error:
            refusal = Refused(error.errno or errno.EINVAL, opening.explain(held.address, error))
            self._told.refused(worker, held.address, refusal.sentence)
            raise refusal from None
        self._told.listening(worker, held)

    def listen_own(self, held: Held) -> None:
        """Let *held*, a socket of a worker's own that is handed to it, listen. Raises OSError."""
        if held.address.kind != "udp":
            held.socket.listen(BACKLOG)
        held.listening = True

    def gone(self, worker: Worker) -> None:
        """*worker* has exited."""
        for held in list(self._holdings.held.values()):
            if worker.number not in held.users:
                continue
            held.users.discard(worker.number)
            if held.users:
                continue
            if held.asked or not (held.listening or held.declared):
                self.close(held)  # its own; or bound, perhaps to see whether the port is free, and never used
            else:
                self.paths.users_gone(held)

    def own(self, worker: Worker, want: Want) -> Held:
        """Return the socket that *worker* has for itself in place of *want*. Raises Refused."""
        shared = self._holdings.held.get(key_of(want.address))
        if shared is not None and shared.kept is not None:
            shared.kept.restore()  # it may have been removed just now, to make room for what it does not get
        held = self._holdings.held.get(private.key_of(worker, str(want.address)))
        if held is None:
            try:
                held = private.open_for(worker, want.address, want.kind, want.source)
            except OSError as error:
                raise Refused(error.errno or errno.EINVAL, opening.explain(want.address, error)) from None
            self._holdings.add_held(held)
        return held

    def _find(self, want: Want) -> Held | None:
        held = self.find(want.address)
        if held is None:
            self._refuse_clash(want.address)
            return None
        if held.door:
            raise Refused(errno.EADDRINUSE, f"{want.address} is the service's own door; bind another address")
        if held.socket.type != want.kind:
            raise Refused(errno.EADDRINUSE, f"{want.address} is held by this service as a socket of another kind")
        if held.kept is not None and not held.kept.restore():
            if held.kept.state() == "other":
                raise Refused(errno.EADDRINUSE, f"{strangers.describe(want.address)} (it has replaced our socket)")
            if held.given is not None:
                return held
            self.close(held)  # its directory is gone, or its file beyond recall
            return None
        return held

    def _open(self, want: Want) -> Held:
        address = want.address
        try:
            sock = opening.new_socket(address, want.kind)
        except OSError as error:
            raise Refused(error.errno or errno.EINVAL, opening.explain(address, error)) from None
        try:
            if want.source is not None:
                opening.copy_options(want.source, sock)
            kept = self._bind(sock, want)
        except OSError as error:
            sock.close()
            raise Refused(error.errno or errno.EINVAL, opening.explain(address, error)) from None
        return self._hold(sock, address, kept)

    def _bind(self, sock: socket.socket, want: Want) -> Kept | None:
        address = want.address
        if address.path is None:
            with SideBySide(sock, list(self._overlapping(address))):
                sock.bind(address.sockaddr())
            return None
        path = want.path or os.fsencode(address.path)
        with opening.InTheNameOf(want.binder):
            directory = os.open(os.path.dirname(path) or b".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                sock.bind(path)
                return Kept(directory, os.path.basename(path))
            except OSError:
                os.close(directory)
                raise

    def _hold(self, sock: socket.socket, address: Address, kept: Kept | None) -> Held:
        held = Held(address=address, key=key_of(address), socket=sock, inode=os.fstat(sock.fileno()).st_ino)
        self._holdings.add_held(held)
        if kept is not None:
            problem = self.paths.keep(held, kept)
            if problem:
                self._told.log(problem)
        return held

    def _give(self, worker: Worker, held: Held, want: Want) -> None:
        alone = not held.users - {worker.number}
        flags = fcntl.fcntl(held.socket, fcntl.F_GETFL)
        if want.nonblocking:
            fcntl.fcntl(held.socket, fcntl.F_SETFL, flags | os.O_NONBLOCK)
        elif alone:
            fcntl.fcntl(held.socket, fcntl.F_SETFL, flags & ~os.O_NONBLOCK)
        held.users.add(worker.number)
        if held.kept is not None:
            held.kept.orphaned = False

    def _in_use(self, held: Held) -> bool:
        """Whether a living process other than ours has the socket open."""
        wanted = {f"socket:[{held.inode}]"}
        if any(strangers.holds(worker.pid, wanted) for worker in self._holdings.alive()):
            return True
        return next(strangers.holders_of({held.inode}), None) is not None

    # ------------------------------------------------------------ the master

    def declare(self, address: Address, *, door: bool, backlog: int, mode: int) -> Held:
        """Open and hold *address* because the master said so; the same again is the same socket. Raises Refused."""
        held = self.find(address)
        if held is None:
            self._refuse_clash(address)
        if held is not None and held.door != door:
            what = "a door" if held.door else "a shared port"
            raise Refused(errno.EADDRINUSE, f"{address} is held already, as {what}")
        if held is None:
            held = self._declare(address, door=door, mode=mode)
        held.declared = True
        if held.given is not None and held.listening:
            return held  # as long a queue as its unit says
        try:
            if address.kind != "udp":
                self._listen(held, backlog)
            held.listening = True
        except OSError as error:
            sentence = opening.explain(address, error)
            self.close(held)
            raise Refused(error.errno or errno.EINVAL, sentence) from None
        return held

    def _declare(self, address: Address, *, door: bool, mode: int) -> Held:
        kind = socket.SOCK_DGRAM if address.kind == "udp" else socket.SOCK_STREAM
        # The umask makes the mode exact from the first moment on: there is no window as there would be before a chmod.
        binder = opening.Binder(os.geteuid(), os.getegid(), (), 0o777 & ~mode, "/")
        want = Want(address, kind, nonblocking=False, binder=binder if address.path is not None else None)
        if address.path is not None:
            try:
                opening.remove_stale(address.path)
            except OSError as error:
                raise Refused(error.errno or errno.EINVAL, str(error.strerror)) from None
        held = self._open(want)
        held.door = door
        if door and address.kind == "unix":
            receiving.refuse_descriptors(held.socket)  # and so does every connection to it
        return held

    # ------------------------------------------------------------ both

    def close(self, held: Held) -> None:
        """Close a socket and remove its file."""
        self._holdings.drop_held(held)
        self.paths.release(held)
        held.socket.close()

    def close_all(self, *, doors: bool = True) -> None:
        """Close every socket, or every one that is not a door."""
        for held in list(self._holdings.held.values()):
            if doors or not held.door:
                self.close(held)

    def _listen(self, held: Held, backlog: int) -> None:
        with SideBySide(held.socket, [other for other in self._overlapping(held.address) if other is not held]):
            held.socket.listen(max(backlog, BACKLOG))
        held.listening = True

    def _overlapping(self, address: Address) -> Iterator[Held]:
        for held in self._holdings.held.values():
            other = held.address
            if held.door or held.asked:
                continue
            if other.kind == address.kind != "unix" and other.port == address.port:
                yield held


class SideBySide:
    """A block in which *sock* may be bound, or listen, beside sockets of ours that it overlaps with.

    So a release that binds ``127.0.0.1:8000`` can replace one that binds ``0.0.0.0:8000`` while that one serves.
    SO_REUSEPORT allows it, to sockets of the same user; it is set for as long as it takes only, or any process of
    this user could join later.
    """

    def __init__(self, sock: socket.socket, others: list[Held]) -> None:
        self._sockets = [sock, *(held.socket for held in others)] if others else []

    def __enter__(self) -> None:
        self._set(1)

    def __exit__(self, *exception: object) -> None:
        self._set(0)

    def _set(self, value: int) -> None:
        for sock in self._sockets:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, value)
