"""Port sharing for any unmodified program: the kernel notifies the guardian of its ``bind`` and ``listen`` calls.

Before exec, the child installs a seccomp filter whose only effect is a notification of these two calls
(SECCOMP_RET_USER_NOTIF, seccomp_unotify(2)). It sends the filter's listener descriptor to the guardian, which thereby
knows the worker: processes that the worker forks inherit the filter. The calling thread blocks until the notification
is answered: with 0 (the call was performed for it: the shared socket replaced its descriptor), with an error, or with
"continue" (the kernel executes the call).

Every notification is answered, whatever happens; otherwise its thread would hang. Data read from the thread's memory is
used only after the kernel has confirmed that the thread is still waiting.

The guardian processes one notification per worker at a time (``helper_client.Tasks``), so that all workers are served
fairly however many threads of one worker call. The helper reads the thread's memory, descriptors and /proc, and
installs the socket. The guardian itself makes only these calls on a listener, none of which blocks:

- SECCOMP_IOCTL_NOTIF_RECV: only when the listener was readable; no other process receives from it.
- SECCOMP_IOCTL_NOTIF_ID_VALID and _SEND: they look up the notification and wake its thread.
- poll, in epoll_wait and epoll_ctl: it checks whether there is a notification.

All of them take the listener's lock, which the kernel holds for a longer time in one case: while the worker's thread
puts the installed descriptor into its table, which flushes a file that another thread has put there meanwhile
(close(2), FUSE). Therefore the listener is removed from the epoll set from the arrival of a notification until it has
been handled. If installing does not finish, the guardian never uses that listener again: it hands it over to a separate
process (``Helper.attend``), which lets the kernel execute the worker's calls. The same happens with any worker that
blocks the helper: only its own binds are affected, and other workers are served a second later.

If the guardian's environment contains CSERVICE_NO_SECCOMP=1, ``probe`` reports that seccomp is unavailable: for tests
of the other modes, and for hosts on which it works but should not be used.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
from typing import TYPE_CHECKING, Any, NoReturn

from cluster_service.machine import descriptor_passing, shortage
from cluster_service.machine import identity as capabilities

from . import bind_requests, syscalls
from .bind_requests import LeaveAlone, want_from
from .helper_client import LIMIT_SECONDS, ask
from .per_slot_sockets import socket_for
from .port_access import Refused

if TYPE_CHECKING:
    from collections.abc import Callable

    from .bind_requests import Want
    from .helper_client import Answer, Helper, Steps
    from .holdings import Held, Holdings, Worker
    from .port_service import Ports
    from .syscalls import Machine, Notification

_SOCKADDR_LIMIT = 128  # sizeof(struct sockaddr_storage): the kernel rejects longer addresses
_GONE = (errno.ENOENT, errno.EINPROGRESS, errno.ESRCH)
"""Errors of answering if the thread was killed or interrupted meanwhile, or has already been answered."""
_STUCK = (errno.ETIMEDOUT, errno.ECONNABORTED)
SLOW_SECONDS = 0.25
"""An answer of the helper that takes at least this long counts as slow."""
WAITING_LIMIT = 3.0
"""Total seconds of slow answers after which a worker's binds are left to the kernel."""


class Listener:
    """Answers the notifications of one worker and its descendants until the last of them has ended."""

    def __init__(
        self,
        worker: Worker,
        descriptor: int,
        holdings: Holdings,
        ports: Ports,
        helper: Helper,
        log: Callable[[str], None],
    ) -> None:
        self.worker = worker
        self.descriptor = descriptor
        self._holdings = holdings
        self._ports = ports
        self._helper = helper
        self._log = log
        self._doing = ""
        """The helper's current operation, for the log."""

    def receive(self) -> Steps[None] | None:
        """Receive one notification and return the steps that answer it. The descriptor must be readable."""
        try:
            notification = syscalls.notif_receive(self.descriptor)
        except OSError as error:
            if error.errno in _GONE:
                return None
            raise
        return timed(self.worker, self._answer(notification))

    def _answer(self, notification: Notification) -> Steps[None]:
        try:
            yield from self._decide(notification)
        except OSError as error:
            if error.errno not in _GONE:
                raise

    def _decide(self, notification: Notification) -> Steps[None]:
        machine = _machine()
        decide = {machine.bind: self._bind, machine.listen: self._listen}.get(notification.number)
        try:
            if decide is None or self.worker.exited:
                raise LeaveAlone
            if self.worker.waited > WAITING_LIMIT:
                self._doing = "working on its binds again and again"
                raise TimeoutError
            yield from decide(notification)
        except LeaveAlone:
            syscalls.notif_continue(self.descriptor, notification.id)
        except Refused as refusal:
            syscalls.notif_answer(self.descriptor, notification.id, refusal.number)
        except MemoryError:
            syscalls.notif_answer(self.descriptor, notification.id, errno.ENOMEM)
        except (TimeoutError, ConnectionAbortedError):
            self._give_away(notification)
        except OSError as error:
            if error.errno in _GONE:
                raise
            syscalls.notif_answer(self.descriptor, notification.id, error.errno or errno.EIO)
        except BaseException:
            syscalls.notif_continue(self.descriptor, notification.id)  # a bug of ours must not leave the thread blocked
            raise

    def _ask(self, doing: str, duty: str, values: dict[str, Any]) -> Steps[Answer]:
        self._doing = doing
        return (yield from ask(duty, values))

    def _bind(self, notification: Notification) -> Steps[None]:
        number, length = _int(notification.args[0]), _int(notification.args[2])
        if not 0 < length <= _SOCKADDR_LIMIT:
            raise LeaveAlone
        values = {
            "thread": notification.thread,
            "number": number,
            "pointer": notification.args[1],
            "length": length,
        }
        try:
            answer = yield from self._ask("reading the address of a bind", "read_bind", values)
        except OSError as error:
            self._give_up(notification, error)
        directory = answer.descriptors[0] if answer.descriptors else -1
        want = None
        try:
            self._check(notification)
            if "leave" in answer.values:
                raise LeaveAlone
            want = want_from(answer.values, directory)
            yield from self._share(notification, number, want, answer.values)
        finally:
            if directory >= 0 and not self._ports.paths.keeps(directory):
                os.close(directory)

    def _share(self, notification: Notification, number: int, want: Want, found: dict[str, Any]) -> Steps[None]:
        ours = self._holdings.by_inode.get(found["inode"])
        if ours is None:
            if found["bound"]:
                raise LeaveAlone
            self._doing = f"opening {want.address}"
            held = yield from self._ports.bind(self.worker, want)
            yield from self._install(notification, number, held, close_on_exec=found["close_on_exec"])
        elif (ours.asked or str(ours.address)) != str(want.address):
            raise LeaveAlone
        syscalls.notif_answer(self.descriptor, notification.id)

    def _install(self, notification: Notification, number: int, held: Held, *, close_on_exec: bool) -> Steps[None]:
        self._doing = f"passing on the socket of {held.address}"
        values = {"id": notification.id, "number": number, "close_on_exec": close_on_exec}
        sock = socket_for(self.worker, held)
        try:
            yield from ask("install", values, [self.descriptor, sock.fileno()])
        except OSError as error:
            if error.errno in (*_STUCK, *_GONE):
                raise
            raise LeaveAlone from None  # for example, it has closed its descriptor meanwhile

    def _listen(self, notification: Notification) -> Steps[None]:
        number, backlog = (_int(argument) for argument in notification.args[:2])
        values = {"thread": notification.thread, "number": number}
        try:
            answer = yield from self._ask("looking at a socket that is to listen", "read_listen", values)
        except OSError as error:
            self._give_up(notification, error)
        self._check(notification)
        held = self._holdings.by_inode.get(answer.values["inode"])
        if held is None:
            raise LeaveAlone
        self._doing = f"listening on {held.address}"
        yield from self._ports.listen(self.worker, held, backlog, bind_requests.binder_from(answer.values["binder"]))
        syscalls.notif_answer(self.descriptor, notification.id)

    def _give_up(self, notification: Notification, error: OSError) -> NoReturn:
        """Handle a request of the thread that cannot be read.

        A bad pointer or descriptor, or a process that must not be inspected, is left to the kernel, which reports the
        error. If the cause is a shortage on our side, the thread gets an error: the kernel would let it bind the port
        unshared.
        """
        if error.errno in _STUCK:
            raise error
        self._check(notification)
        if shortage.is_one(error) or error.errno == errno.EAGAIN:
            raise Refused(error.errno or errno.ENOMEM, f"a port cannot be shared: {shortage.explain(error)}") from None
        raise LeaveAlone from None

    def _check(self, notification: Notification) -> None:
        """Raise ENOENT if the thread is no longer waiting: the data may come from another process with a reused id."""
        if not syscalls.notif_valid(self.descriptor, notification.id):
            raise OSError(errno.ENOENT, "the thread is gone")

    def _give_away(self, notification: Notification) -> None:
        """Hand the listener of a worker that blocks the helper to a process that leaves its calls to the kernel."""
        descriptor, self.descriptor = self.descriptor, -1
        stop_sharing(self.worker, self._doing, self._log)
        first = notification.id
        try:
            self._helper.attend(descriptor, lambda listener: leave_all(listener, first))
        except OSError:
            self._helper.close(descriptor)  # its binds fail with ENOSYS
            raise


def stop_sharing(worker: Worker, doing: str, log: Callable[[str], None]) -> None:
    """Leave the binds of *worker* to the kernel from now on, because of an operation that blocked the helper."""
    worker.unshared = True
    why = f"{doing} took longer than {LIMIT_SECONDS:g} s"
    log(f"{worker.label} (pid {worker.pid}): {why}; its binds are no longer shared")


def timed(worker: Worker, steps: Steps[None]) -> Steps[None]:
    """Run *steps*, and add up the time for which the helper was slow on behalf of *worker*."""
    try:
        call = next(steps)
        while True:
            answer = yield call
            if answer.seconds > SLOW_SECONDS:
                worker.waited += answer.seconds
            call = steps.send(answer)
    except StopIteration:
        return


def leave_all(listener: int, first: int) -> None:
    """Let the kernel execute every call reported by *listener*, starting with the notification id *first*."""
    identity = first
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    while True:
        try:
            syscalls.notif_continue(listener, identity)
        except OSError as error:
            if error.errno not in _GONE:
                raise
        while True:
            ((_, events),) = poll.poll()
            if not events & select.POLLIN:  # the last process under the filter has ended
                return
            try:
                identity = syscalls.notif_receive(listener).id
                break
            except OSError as error:
                if error.errno not in _GONE:
                    raise


def _machine() -> Machine:
    if syscalls.MACHINE is None:
        raise OSError(errno.ENOSYS, "the numbers of this machine's system calls are not known")
    return syscalls.MACHINE


def _int(argument: int) -> int:
    """Return the content of a register as the C int that the kernel reads from it."""
    value = argument & 0xFFFFFFFF
    return value - (1 << 32) if value >> 31 else value


# ------------------------------------------------------------------ availability


def probe(environment: dict[str, str]) -> str:
    """Return why seccomp cannot share ports on this machine, as a sentence; an empty string if it can.

    Tries everything that a worker will need, in a child that binds an abstract Unix socket.
    """
    if environment.get("CSERVICE_NO_SECCOMP") == "1":
        return "it was switched off with CSERVICE_NO_SECCOMP=1"
    if syscalls.MACHINE is None:
        return f"the numbers of the system calls of this machine ({os.uname().machine}) are not known"
    parent, child = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with parent, child:
        pid = os.fork()
        if pid == 0:
            _probe_child(child, syscalls.MACHINE)
        child.close()
        parent.settimeout(_TRIAL_SECONDS)
        try:
            return _probe_parent(parent)
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


_TRIAL_SECONDS = 5.0
"""Timeout of the trial, which normally takes a millisecond."""


def _probe_child(report: socket.socket, machine: Machine) -> None:
    try:
        if not capabilities.has(capabilities.CAP_SYS_ADMIN):
            syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
        listener = syscalls.install_filter(syscalls.bind_filter(machine), machine)
        descriptor_passing.send(report, b"listener", [listener])
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
        data, descriptors, _ = descriptor_passing.receive(report, 4096, 1)
    except OSError as error:
        return f"the trial ended early ({error})"
    if not descriptors:
        return data.decode("utf-8", "replace") or "the trial ended early"
    listener = descriptors[0]
    try:
        if not select.select([listener], [], [], _TRIAL_SECONDS)[0]:
            return "the kernel does not notify of bind"
        notification = syscalls.notif_receive(listener)
        bind_requests.read_memory(notification.thread, notification.args[1], 2)
        descriptor = _int(notification.args[0])
        with bind_requests.borrow(notification.thread, descriptor), socket.socket(socket.AF_UNIX) as ours:
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)  # lets the child detect the replacement
            syscalls.notif_replace(
                listener, notification.id, ours.fileno(), _int(notification.args[0]), close_on_exec=True
            )
            syscalls.notif_answer(listener, notification.id)
            return report.recv(4096).decode("utf-8", "replace")
    except OSError as error:
        return f"{_REASONS.get(error.errno or 0, str(error))} ({error})"
    finally:
        os.close(listener)
