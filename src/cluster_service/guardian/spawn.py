"""Forking: one ``Launch`` for each new process, worker or master, until its program has been executed."""

from __future__ import annotations

import errno
import fcntl
import functools
import os
import signal
import socket
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from cluster_service.machine import descriptor_passing, identity, shortage
from cluster_service.wire.worker_protocol import SIZE

from . import forked_child, syscalls, untrusted_input

if TYPE_CHECKING:
    from cluster_service.machine.identity import Identity

    from .forked_child import Plan

_CHECK_BACKLOG = 16


class CannotSpawn(Exception):
    """No process was started; the message is a sentence."""


class Resources:
    """Context manager that closes every descriptor created in it, except for those that are kept.

    By then the child has its copies; if the fork failed, nothing is kept and nothing leaks.
    """

    def __init__(self) -> None:
        self._sockets: list[socket.socket] = []
        self._descriptors: list[int] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        for sock in self._sockets:
            sock.close()
        for descriptor in self._descriptors:
            os.close(descriptor)

    def pair(self, kind: int) -> tuple[socket.socket, socket.socket]:
        """Return a new socket pair, our end first: it refuses descriptors."""
        pair = socket.socketpair(socket.AF_UNIX, kind)
        untrusted_input.refuse_descriptors(pair[0])
        self._sockets += pair
        return pair

    def pipe(self) -> tuple[int, int]:
        """Return the ends of a new pipe, read end first."""
        ends = os.pipe()
        self._descriptors += ends
        return ends

    def memory_file(self, content: bytes) -> int:
        """Return a descriptor of a new anonymous file."""
        descriptor = syscalls.memory_file("cservice", content)
        self._descriptors.append(descriptor)
        return descriptor

    def board(self) -> int:
        """Return a descriptor of a new board; -1 if it cannot be created."""
        descriptor = create_board()
        if descriptor >= 0:
            self._descriptors.append(descriptor)
        return descriptor

    def check_socket(self, opened: tuple[socket.socket, str]) -> tuple[socket.socket, str]:
        """Make the socket *opened*, which serves one worker's health checks, listen; return it and its address."""
        sock, name = opened
        self._sockets.append(sock)
        untrusted_input.refuse_descriptors(sock)
        sock.listen(_CHECK_BACKLOG)
        return sock, f"unix:{name}"

    def keep(self, *kept: socket.socket | int | None) -> None:
        """Do not close these."""
        self._sockets = [sock for sock in self._sockets if sock not in kept]
        self._descriptors = [descriptor for descriptor in self._descriptors if descriptor not in kept]


class Launch(NamedTuple):
    """A forked process: its pid, and our end of its launch socket."""

    pid: int
    sock: socket.socket


class Progress:
    """The data received over a launch socket so far."""

    def __init__(self, launch: Launch) -> None:
        self.pid = launch.pid
        self.sock = launch.sock
        self.listener: int | None = None
        self.error = ""
        self.deaf = False
        """Its listener is lost: the program would run, but bind would fail with ENOSYS."""

    def read(self) -> bool:
        """Read available data. Return True at the end: the program has been executed, or ``error`` says why not."""
        while True:
            try:
                data, descriptors, _ = descriptor_passing.receive(self.sock, 4096, 1)
            except (BlockingIOError, InterruptedError):
                return False
            except OSError:
                return True
            if descriptors:
                self.listener = descriptors[0]
            elif not data:
                return True
            elif data == b"\0":  # its descriptor did not arrive, because none was free: recvmsg(2), MSG_CTRUNC
                self.deaf = True
                self.error = f"the worker cannot be started: {shortage.SENTENCES[errno.EMFILE]}"
            else:
                self.error = data.decode("utf-8", "replace")


def launch(plan: Plan) -> Launch:
    """Fork a process that executes *plan*. Raises CannotSpawn."""
    try:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    except OSError as error:
        raise CannotSpawn(shortage.explain(error)) from None
    if plan.machine is None:  # no listener will arrive
        untrusted_input.refuse_descriptors(ours)
    guardian = os.getpid()
    # Otherwise a signal that arrives in the child before its handlers are reset would run a handler of the guardian.
    blocked = signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
    try:
        pid = os.fork()
        if pid == 0:
            forked_child.run(plan, guardian, theirs.fileno())
    except OSError as error:
        ours.close()
        raise CannotSpawn(shortage.NO_PROCESS if error.errno == errno.EAGAIN else shortage.explain(error)) from None
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        theirs.close()
    return Launch(pid, ours)


@functools.lru_cache(maxsize=100)
def identity_of(user: str | None, group: str | None) -> Identity:
    """Return the identity named by an order. Raises CannotSpawn if there is no such user or group.

    Results are cached: the user database may be a server that later does not answer.
    """
    try:
        return identity.of(user, group)
    except identity.Unknown as error:
        raise CannotSpawn(str(error)) from None


def check_share(share: str, worker: Identity, known: dict[str, Any]) -> None:
    """Raise CannotSpawn if *share* is unavailable here, or not for a worker of another user."""
    reason = known.get(share, f"there is no such way; there are: {', '.join(sorted(known))}")
    if reason:
        raise CannotSpawn(f"ports cannot be shared by {share}: {reason}")
    other = worker.user_id != os.geteuid()
    if share == "seccomp" and other and not identity.has(identity.CAP_SYS_PTRACE):
        raise CannotSpawn("to share ports with workers of another user needs CAP_SYS_PTRACE; try: --share python")


_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
_NOT_HERE = {errno.ENOSYS, errno.EPERM, errno.EACCES, errno.EINVAL}
"""Errors of memfd_create if the kernel or a sandbox does not permit it."""


def create_board() -> int:
    """Return a descriptor of a new, empty board, or -1 if memfd_create is not available.

    Raises OSError for lack of memory or descriptors.
    """
    try:
        descriptor = os.memfd_create("cservice-board", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    except OSError as error:
        if error.errno in _NOT_HERE:
            return -1
        raise
    try:
        os.ftruncate(descriptor, SIZE)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
