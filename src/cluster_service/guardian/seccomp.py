"""Port sharing for any program, unmodified: its ``bind`` and ``listen`` are put to the guardian by the kernel.

Before exec the child installs a seccomp filter whose only effect is a notification of these two calls
(SECCOMP_RET_USER_NOTIF, seccomp_unotify(2)); its listener descriptor is sent to the guardian, and thereby names the
worker: what the worker forks inherits the filter. The thread waits in the call until it is answered here, with 0
(done for it: the shared socket was put over its descriptor), with an error, or with "go on" (nothing of ours).

Each notification is answered, whatever happens, or its thread is dead: nothing here waits for a worker. What was read
from its memory is only used after the kernel has said that the thread still waits.

The environment variable CSERVICE_NO_SECCOMP=1, in the guardian's environment, makes ``probe`` say that all this
cannot be had: for tests of the other modes, and for hosts where it works but is not wanted.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import signal
import socket
from typing import TYPE_CHECKING, NoReturn

from cluster_service.machine import capabilities, passing, shortage
from cluster_service.wire import addresses

from . import opening, posix
from .ports import Refused, Want

if TYPE_CHECKING:
    from .holdings import Holdings, Worker
    from .ports import Ports
    from .posix import Machine, Notification

_SOCKADDR_LIMIT = 128  # sizeof(struct sockaddr_storage): the kernel refuses more
_GONE = (errno.ENOENT, errno.EINPROGRESS, errno.ESRCH)
"""What answering gives when the thread was killed or interrupted meanwhile, or has been answered."""


class _Leave(Exception):
    """The call is none of ours: the kernel may go on with it."""


class Listener:
    """Answers the notifications of one worker, and of what it has forked, until the last of them has ended."""

    def __init__(self, worker: Worker, descriptor: int, holdings: Holdings, ports: Ports) -> None:
        self.worker = worker
        self.descriptor = descriptor
        self._holdings = holdings
        self._ports = ports

    def answer_one(self) -> None:
        """Receive and answer one notification. The descriptor is readable."""
        try:
            notification = posix.notif_receive(self.descriptor)
        except OSError as error:
            if error.errno in _GONE:
                return
            raise
        try:
            self._answer(notification)
        except OSError as error:
            if error.errno not in _GONE:
                raise

    def _answer(self, notification: Notification) -> None:
        machine = _machine()
        decide = {machine.bind: self._bind, machine.listen: self._listen}.get(notification.number)
        try:
            if decide is None:
                raise _Leave
            decide(notification)
        except _Leave:
            posix.notif_continue(self.descriptor, notification.id)
        except Refused as refusal:
            posix.notif_answer(self.descriptor, notification.id, refusal.number)
        except MemoryError:
            posix.notif_answer(self.descriptor, notification.id, errno.ENOMEM)
        except BaseException:
            posix.notif_continue(self.descriptor, notification.id)  # a fault of ours must not leave the thread waiting
            raise

    def _bind(self, notification: Notification) -> None:
        number, length = _int(notification.args[0]), _int(notification.args[2])
        if not 0 < length <= _SOCKADDR_LIMIT:
            raise _Leave
        thread = notification.thread
        theirs = None
        try:
            try:
                data = _read_memory(thread, notification.args[1], length)
                theirs = _borrow(thread, number)
                want, close_on_exec = _want(thread, number, theirs, data)
            except OSError as error:
                self._give_up(notification, error)
            self._check(notification)
            self._share(notification, number, want, close_on_exec=close_on_exec)
        finally:
            if theirs is not None:
                theirs.close()

    def _share(self, notification: Notification, number: int, want: Want, *, close_on_exec: bool) -> None:
        source = want.source
        ours = None if source is None else self._holdings.by_inode.get(os.fstat(source.fileno()).st_ino)
        if ours is None:
            if source is not None and _is_bound(source):
                raise _Leave
            held = self._ports.bind(self.worker, want)
            posix.notif_replace(
                self.descriptor, notification.id, held.socket.fileno(), number, close_on_exec=close_on_exec
            )
        elif (ours.asked or str(ours.address)) != str(want.address):
            raise _Leave
        posix.notif_answer(self.descriptor, notification.id)

    def _listen(self, notification: Notification) -> None:
        number, backlog = (_int(argument) for argument in notification.args[:2])
        thread = notification.thread
        try:
            with _borrow(thread, number) as theirs:
                inode = os.fstat(theirs.fileno()).st_ino
            held = self._holdings.by_inode.get(inode)
            binder = opening.binder_of(thread) if held is not None and held.address.kind == "unix" else None
        except OSError as error:
            self._give_up(notification, error)
        self._check(notification)
        if held is None:
            raise _Leave
        self._ports.listen(self.worker, held, backlog, binder)
        posix.notif_answer(self.descriptor, notification.id)

    def _give_up(self, notification: Notification, error: OSError) -> NoReturn:
        """What the thread asks for cannot be read.

        A bad pointer or descriptor, or a process not to be looked into, is left to the kernel, which will tell it. But
        where it is only we who have too little, the thread is refused: left to itself it would bind the port for
        itself alone.
        """
        self._check(notification)
        if shortage.is_one(error):
            raise Refused(error.errno or errno.ENOMEM, f"a port cannot be shared: {shortage.explain(error)}") from None
        raise _Leave from None

    def _check(self, notification: Notification) -> None:
        """Raise ENOENT when the thread waits no more: what was read may be of another process with its number."""
        if not posix.notif_valid(self.descriptor, notification.id):
            raise OSError(errno.ENOENT, "the thread is gone")


def _machine() -> Machine:
    if posix.MACHINE is None:
        raise OSError(errno.ENOSYS, "the numbers of this machine's system calls are not known")
    return posix.MACHINE


def _int(argument: int) -> int:
    """Return a register's content as the C int that the kernel takes it for."""
    value = argument & 0xFFFFFFFF
    return value - (1 << 32) if value >> 31 else value


def _read_memory(thread: int, address: int, length: int) -> bytes:
    descriptor = os.open(f"/proc/{thread}/mem", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.pread(descriptor, length, address)
    except OverflowError:
        raise OSError(errno.EFAULT, "a pointer into the kernel") from None
    finally:
        os.close(descriptor)


def _borrow(thread: int, number: int) -> socket.socket:
    """Return a copy of descriptor *number* of the process that *thread* is of. Raises OSError when it is no socket."""
    try:
        pidfd = posix.pidfd_open(_leader(thread))
        try:
            copy = posix.pidfd_getfd(pidfd, number)
        finally:
            os.close(pidfd)
    except OSError:
        # The first thread may have ended while others go on: then it has no descriptors any more.
        pidfd = posix.pidfd_open(thread, thread=True)
        try:
            copy = posix.pidfd_getfd(pidfd, number)
        finally:
            os.close(pidfd)
    try:
        return socket.socket(fileno=copy)
    except BaseException:
        os.close(copy)
        raise


def _leader(thread: int) -> int:
    with open(f"/proc/{thread}/status", encoding="ascii", errors="replace") as file:
        for line in file:
            if line.startswith("Tgid:"):
                return int(line.split()[1])
    raise OSError(errno.ESRCH, "no such thread")


def _want(thread: int, number: int, theirs: socket.socket, data: bytes) -> tuple[Want, bool]:
    """Return what the thread wants to bind, and whether its descriptor is close-on-exec. Raises _Leave."""
    kind = opening.shareable(theirs)
    if kind is None or int.from_bytes(data[:2], "little") != theirs.family:
        raise _Leave
    v6only = theirs.family == socket.AF_INET6 and bool(theirs.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY))
    address = addresses.from_sockaddr(data, kind, v6only=v6only)
    if address is None or opening.multicast(address) or _elsewhere(theirs):
        raise _Leave
    path = None
    if address.path is not None:
        path = os.fsencode(address.path)
        address = _absolute(thread, address.host)
    nonblocking = bool(fcntl.fcntl(theirs, fcntl.F_GETFL) & os.O_NONBLOCK)
    binder = opening.binder_of(thread) if path is not None else None
    return Want(address, theirs.type, nonblocking, binder, path, theirs), _close_on_exec(thread, number)


def _elsewhere(theirs: socket.socket) -> bool:
    with socket.socket(socket.AF_UNIX) as ours:
        return opening.network(theirs) != opening.network(ours)


def _absolute(thread: int, path: str) -> addresses.Address:
    if os.readlink(f"/proc/{thread}/root") != "/":
        raise _Leave
    return addresses.Address("unix", os.path.normpath(os.path.join(os.readlink(f"/proc/{thread}/cwd"), path)))


def _close_on_exec(thread: int, number: int) -> bool:
    with open(f"/proc/{thread}/fdinfo/{number}", encoding="ascii") as file:
        for line in file:
            if line.startswith("flags:"):
                return bool(int(line.split()[1], 8) & os.O_CLOEXEC)
    return False


def _is_bound(sock: socket.socket) -> bool:
    name = sock.getsockname()
    return bool(name if sock.family == socket.AF_UNIX else name[1])


# ------------------------------------------------------------------ whether it can be had here


def probe(environment: dict[str, str]) -> str:
    """Return why ports cannot be shared by seccomp here, as a sentence; an empty string when they can.

    Everything is tried that a worker will need, in a child that binds an abstract Unix socket.
    """
    if environment.get("CSERVICE_NO_SECCOMP") == "1":
        return "it was switched off with CSERVICE_NO_SECCOMP=1"
    if posix.MACHINE is None:
        return f"the numbers of the system calls of this machine ({os.uname().machine}) are not known"
    parent, child = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with parent, child:
        pid = os.fork()
        if pid == 0:
            _probe_child(child, posix.MACHINE)
        child.close()
        parent.settimeout(_TRIAL_SECONDS)
        try:
            return _probe_parent(parent)
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


_TRIAL_SECONDS = 5.0
"""How long the trial may take before it has failed: it takes a millisecond."""


def _probe_child(report: socket.socket, machine: Machine) -> None:
    try:
        if not capabilities.has(capabilities.CAP_SYS_ADMIN):
            posix.prctl(posix.PR_SET_NO_NEW_PRIVS, 1)
        listener = posix.install_filter(posix.bind_filter(machine), machine)
        passing.send(report, b"listener", [listener])
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(b"\0cluster-service probe %d" % os.getpid())
            replaced = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED)
            report.send(b"" if replaced else b"the socket was not replaced")
    except OSError as error:
        report.send(_REASONS.get(error.errno or 0, str(error)).encode())
    finally:
        os._exit(0)


_REASONS = {
    errno.EBUSY: "there is such a filter already: this runs inside another cservice, or under a container's supervisor",
    errno.ENOSYS: "the kernel is too old or has no seccomp; Linux 5.9 is needed",
    errno.EINVAL: "the kernel is too old or has no seccomp; Linux 5.9 is needed",
    errno.EPERM: "a security policy of this host or container forbids it",
    errno.EACCES: "a security policy of this host or container forbids it",
}


def _probe_parent(report: socket.socket) -> str:
    try:
        data, descriptors, _ = passing.receive(report, 4096, 1)
    except OSError as error:
        return f"the trial ended early ({error})"
    if not descriptors:
        return data.decode("utf-8", "replace") or "the trial ended early"
    listener = descriptors[0]
    try:
        if not select.select([listener], [], [], _TRIAL_SECONDS)[0]:
            return "the kernel does not notify of bind"
        notification = posix.notif_receive(listener)
        _read_memory(notification.thread, notification.args[1], 2)
        with _borrow(notification.thread, _int(notification.args[0])), socket.socket(socket.AF_UNIX) as ours:
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)  # by which the child knows it
            posix.notif_replace(
                listener, notification.id, ours.fileno(), _int(notification.args[0]), close_on_exec=True
            )
            posix.notif_answer(listener, notification.id)
            return report.recv(4096).decode("utf-8", "replace")
    except OSError as error:
        return f"{_REASONS.get(error.errno or 0, str(error))} ({error})"
    finally:
        os.close(listener)
