"""Receiving from a less trusted process, without ever receiving or closing a descriptor that it sent.

To close a descriptor can block for as long as its sender likes (SO_LINGER, a FUSE file system), and a descriptor is
closed by whichever process receives it, or closes the socket in whose queue it waits. So:

- From Linux 6.16 on, a socket refuses descriptors (SO_PASSRIGHTS): the sender gets EPERM.
- Elsewhere, and on NOTIFY_SOCKET, where descriptors have a use (sd_notify_barrier(3)), each datagram is looked at first
  (MSG_PEEK). The kernel says MSG_CTRUNC where descriptors come with it, and leaves them in the queue. Such a datagram,
  and a socket whose queue may hold one, is left to a process that exists for this alone: ``Disposal``.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import select
import signal
import socket
import struct
from typing import TYPE_CHECKING, NamedTuple, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable

    from .loop import Loop

SO_PASSRIGHTS = 83  # asm-generic/socket.h
_CREDENTIALS = struct.Struct("=iII")  # struct ucred of sys/socket.h: pid, uid, gid
_CREDENTIALS_ROOM = socket.CMSG_LEN(_CREDENTIALS.size)
_MAX_QUEUED = 2048
"""More datagrams than the queue of a Unix socket holds."""
_MAX_PROCESSES = 8
_SECONDS = 1.0
"""How long a process may take to close what it was given; then it is killed."""
_RETRY_SECONDS = 1.0
"""Seconds until a process is tried again that could not be started."""


class Received(NamedTuple):
    """One datagram."""

    data: bytes
    uid: int | None
    """The user that sent it, on a socket with SO_PASSCRED."""
    descriptors: bool = False
    """Descriptors come with it, and it is still in the queue."""


def refuse_descriptors(sock: socket.socket) -> None:
    """Let the kernel refuse descriptors on *sock*, where it can."""
    with contextlib.suppress(OSError):  # before Linux 6.16
        sock.setsockopt(socket.SOL_SOCKET, SO_PASSRIGHTS, 0)


def refuses_descriptors(sock: socket.socket) -> bool:
    """Return whether the kernel refuses descriptors on *sock*."""
    try:
        return sock.getsockopt(socket.SOL_SOCKET, SO_PASSRIGHTS) == 0
    except OSError:
        return False


def receive(sock: socket.socket, limit: int) -> Received:
    """Receive a datagram of *sock*: at most *limit* bytes and one more, so that a longer one is seen to be longer.

    Raises BlockingIOError where there is none, and OSError.
    """
    if refuses_descriptors(sock):
        data, ancillary, _flags, _address = sock.recvmsg(limit + 1, _CREDENTIALS_ROOM, socket.MSG_DONTWAIT)
        return Received(data, _sender(ancillary))
    data, ancillary, flags, _address = sock.recvmsg(
        limit + 1, _CREDENTIALS_ROOM, socket.MSG_DONTWAIT | socket.MSG_PEEK
    )
    if flags & socket.MSG_CTRUNC:
        return Received(data, _sender(ancillary), descriptors=True)
    sock.recv(1, socket.MSG_DONTWAIT)
    return Received(data, _sender(ancillary))


def _sender(ancillary: list[tuple[int, int, bytes]]) -> int | None:
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
            _pid, uid, _gid = _CREDENTIALS.unpack_from(data)
            return int(uid)
    return None


class _Work(NamedTuple):
    """What one process is to do: receive one datagram of *sock*, or, without *done*, hold it at its own end."""

    sock: socket.socket
    done: Callable[[bool], None] | None


class Disposal:
    """Closes what the guardian must not. Each process does one thing, and is killed when it takes too long."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._waiting: list[_Work] = []
        self._running: dict[int, tuple[float, _Work]] = {}
        self._retry_at: float | None = None

    def __repr__(self) -> str:
        return f"<Disposal: {len(self._running)} processes, {len(self._waiting)} sockets wait>"

    def close(self, sock: socket.socket) -> None:
        """Close *sock*, whatever waits in its queue."""
        if refuses_descriptors(sock) or _drained(sock):
            sock.close()
        else:
            self._queue(_Work(sock, None))

    def discard_one(self, sock: socket.socket, done: Callable[[bool], None]) -> None:
        """Discard the oldest datagram of *sock*. *done* is called with whether that could be done."""
        self._queue(_Work(sock, done))

    def _queue(self, work: _Work) -> None:
        self._waiting.append(work)
        self._start(self._loop.now())

    def _start(self, now: float) -> None:
        while self._waiting and len(self._running) < _MAX_PROCESSES:
            work = self._waiting[0]
            try:
                pid = _fork(work)
            except OSError:
                self._retry_at = now + _RETRY_SECONDS
                return
            self._waiting.pop(0)
            self._running[pid] = (now + _SECONDS, work)
        self._retry_at = None

    def deadline(self) -> float | None:
        """When ``tick`` has something to do."""
        times = [due for due, _ in self._running.values()]
        return min(times if self._retry_at is None else [*times, self._retry_at], default=None)

    def tick(self, now: float) -> None:
        """Do what has become due."""
        for pid, (due, work) in list(self._running.items()):
            if now >= due:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                self._running[pid] = (now + _SECONDS, work)
        if self._retry_at is not None and now >= self._retry_at:
            self._start(now)

    def reaped(self, pid: int, *, failed: bool) -> bool:
        """Return whether *pid*, which has ended, was one of ours."""
        _due, work = self._running.pop(pid, (0.0, None))
        if work is None:
            return False
        if work.done is not None:
            work.done(not failed)
        self._start(self._loop.now())
        return True


def _drained(sock: socket.socket) -> bool:
    """Empty the queue of *sock*, which nothing can be added to any more. False where descriptors wait in it."""
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
    for _ in range(_MAX_QUEUED):
        try:
            if receive(sock, 1).descriptors:
                return False
        except OSError:  # it is empty
            return True
    return sock.type != socket.SOCK_DGRAM  # of a connected socket, nothing but the end is left


def _fork(work: _Work) -> int:
    """Start a process for *work*. It begins once the guardian has closed its own copy of what is to be closed."""
    begin, go = os.pipe()
    blocked = signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
    try:
        pid = os.fork()
        if pid == 0:
            _dispose(work, begin)
        if work.done is None:
            work.sock.close()
        return pid
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        os.close(begin)
        os.close(go)


def _dispose(work: _Work, begin: int) -> NoReturn:
    """Do *work* in a process of its own, and end. What is open at a process's end is closed without lingering."""
    try:
        number = work.sock.fileno()
        for first, last in _gaps({number, begin}):
            os.closerange(first, last)
        select.select([begin], [], [], _SECONDS)
        if work.done is not None:
            work.sock.recv(1, socket.MSG_DONTWAIT)
        os._exit(0)
    finally:
        os._exit(1)


def _gaps(kept: set[int]) -> list[tuple[int, int]]:
    edges = [-1, *sorted(kept), 1 << 20]
    return [(first + 1, last) for first, last in itertools.pairwise(edges)]
