"""Children of the guardian between fork and exec, and those that never execute another program, such as the helper.

A child never returns to the guardian's code.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import json
import os
import select
import signal
import socket
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from cluster_service.machine import descriptor_passing, installation, shortage
from cluster_service.machine import identity as capabilities
from cluster_service.machine.identity import Identity, become
from cluster_service.machine.process_title import Title

from . import process_limits, syscalls
from .process_limits import Failure

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from .process_limits import Limits
    from .syscalls import Machine

    Duty = Callable[[dict[str, Any], list[int]], "Result"]


class Plan(NamedTuple):
    """Parameters of the child, prepared before the fork, so that as little as possible can fail after it."""

    argv: list[str]
    env: dict[str, str]
    cwd: str
    stdout: int
    stderr: int
    descriptors: list[int]
    """Descriptors that become 3, 4, 5 ... in the program."""
    limits: Limits
    identity: Identity
    """User and groups with which the program runs."""
    machine: Machine | None = None
    """If set, install the seccomp filter for it and send the listener."""
    death_signal: int = 0
    """Signal sent to the program when the guardian dies; 0: none."""
    listen_fds: bool = False
    """Set LISTEN_PID, which only the child knows."""
    keep_stdin: bool = False
    """Use a pipe that never reaches end of file as standard input, instead of /dev/null."""
    complain: bool = False
    """Also write the reason to standard error if the program cannot be executed; no other process would report it."""


def run(plan: Plan, guardian: int, launch: int) -> NoReturn:
    """Execute the program. *guardian* is the parent's pid. The caller has blocked all signals."""
    try:
        process_limits.restore(plan.limits)
        os.setsid()  # it can neither join another process group nor use the terminal that the service was started from
        reset_signals()
        launch = _arrange_descriptors(plan, launch)
        _prepare(plan, guardian, launch)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        _execute(plan)
    except Failure as failure:
        if plan.complain:
            _complain(str(failure))
        _report(launch, str(failure))
    except BaseException as error:  # reported on the launch socket, the only way out
        _report(launch, f"{plan.argv[0]}: cannot be started: {shortage.explain(error)}")
    finally:
        os._exit(127)


def _report(launch: int, text: str) -> None:
    try:
        os.write(launch, text.encode("utf-8", "replace")[:4000])
    except OSError:  # the guardian is gone
        os._exit(127)


def report(descriptor: int, text: bytes) -> None:
    """Write *text* to *descriptor*. Call this in a separate process, since it may block on the reader."""
    os.write(descriptor, text)


def _complain(sentence: str) -> None:
    """Write *sentence* to standard error, where the program's own errors go."""
    with contextlib.suppress(OSError):
        os.write(2, f"cservice: {sentence}\n".encode("utf-8", "replace"))


def reset_signals() -> None:
    """Reset every signal to its default disposition, as a new program expects."""
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals():
        if number not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(number, signal.SIG_DFL)


def _arrange_descriptors(plan: Plan, launch: int) -> int:
    """Move the descriptors to where the program expects them and close all others. Return that of the launch socket."""
    wanted = [_standard_input(keep_open=plan.keep_stdin), plan.stdout, plan.stderr, *plan.descriptors, launch]
    # Duplicate all of them above the target range first, so that no dup2 overwrites one that is still needed.
    above = [_duplicate_above(descriptor, len(wanted)) for descriptor in wanted]
    for target, descriptor in enumerate(above):
        os.dup2(descriptor, target)
    launch = len(wanted) - 1
    os.set_inheritable(launch, False)
    os.closerange(len(wanted), 1 << 20)
    return launch


def _standard_input(*, keep_open: bool) -> int:
    """Return a descriptor without data to read: /dev/null or, with *keep_open*, one that never reaches end of file."""
    if not keep_open:
        return os.open(os.devnull, os.O_RDWR)
    reading, writing = os.pipe()
    try:  # fifo(7): opened for reading and writing, a pipe has a writer as long as it has a reader
        return os.open(f"/proc/self/fd/{reading}", os.O_RDWR)
    finally:
        os.close(reading)
        os.close(writing)


def _duplicate_above(descriptor: int, least: int) -> int:
    import fcntl  # already loaded; only this function uses it

    return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, least)


def _prepare(plan: Plan, guardian: int, launch: int) -> None:
    # With CAP_SYS_ADMIN a filter does not need no_new_privs, which would break setuid programs. Changing the user drops
    # the capability.
    privileged = plan.machine is not None and capabilities.has(capabilities.CAP_SYS_ADMIN)
    if plan.machine is not None and privileged:
        _send_listener(plan.machine, launch)
    process_limits.put_on(plan.limits, _complain)  # before the change of user, while permitted
    # A program may open /dev/stdout, /dev/stderr or a pipe at /dev/stdin by name. With OWN this changes nothing.
    for stream in (1, 2) if not plan.keep_stdin else (0, 1, 2):
        os.fchown(stream, plan.identity.uid, plan.identity.gid)
    _become(plan.identity)
    _change_directory(plan.cwd)
    if plan.death_signal:
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, plan.death_signal)  # after setuid, which clears it
        if os.getppid() != guardian:
            os._exit(127)
    if plan.machine is not None and not privileged:
        syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
        _send_listener(plan.machine, launch)


def _send_listener(machine: Machine, launch: int) -> None:
    listener = syscalls.install_filter(syscalls.bind_filter(machine), machine)
    with socket.socket(fileno=os.dup(launch)) as pair:
        descriptor_passing.send(pair, b"\0", [listener])
    os.close(listener)


def _become(identity: Identity) -> None:
    try:
        become(identity)
    except OSError as error:
        who = identity.name or identity.uid
        if error.errno == errno.EAGAIN:
            raise Failure(f"user {who} has reached the limit of processes (RLIMIT_NPROC)") from None
        raise Failure(f"cannot become user {who}: {error.strerror}; only root can") from None


def _change_directory(path: str) -> None:
    try:
        os.chdir(path)
    except OSError as error:
        known = {errno.ENOENT: "no such directory", errno.ENOTDIR: "not a directory"}
        raise Failure(f"cannot start in {path}: {known.get(error.errno or 0, error.strerror)}") from None


def _execute(plan: Plan) -> NoReturn:
    missing = installation.explain_missing(plan.argv[:4])
    if missing:
        raise Failure(missing)
    env = plan.env
    if plan.listen_fds:
        env = {**env, "LISTEN_PID": str(os.getpid())}
    program = plan.argv[0]
    if "/" in program:
        candidates = [program]
    else:
        candidates = [os.path.join(part or ".", program) for part in env.get("PATH", os.defpath).split(":")]
    failed: OSError | None = None
    where = program
    for candidate in candidates:
        try:
            os.execve(candidate, plan.argv, env)  # runs the user's program
        except (FileNotFoundError, NotADirectoryError) as error:
            if failed is None and os.path.exists(candidate):
                failed, where = error, candidate
        except OSError as error:
            failed, where = error, candidate
            if error.errno != errno.EACCES:
                break
    if failed is None:
        place = "" if "/" in program else " on the PATH"
        raise Failure(f"no such program{place}: {program}")
    raise Failure(_explain(where, failed))


def _explain(program: str, error: OSError) -> str:
    number = error.errno or 0
    if os.path.isdir(program):
        return f"{program} is a directory, not a program"
    if number == errno.EACCES and os.access(program, os.F_OK) and not os.access(program, os.X_OK):
        return f"{program} is not executable; try: chmod +x {program}"
    return {
        errno.ENOENT: f"{program} cannot be run: the interpreter that its first line names does not exist",
        errno.ENOEXEC: f"{program} is no program for this machine, and has no first line like #!/bin/sh",
        errno.EAGAIN: f"{program} cannot be run: its user has reached the limit of processes (RLIMIT_NPROC)",
    }.get(number, f"{program} cannot be run: {shortage.explain(error)}")


BATCH = 253
"""Maximum number of descriptors in one message: SCM_MAX_FD of the kernel."""
REQUEST_BYTES = 64 * 1024
CLOSE = "close"
"""Name of the duty ``close``."""


class Result(NamedTuple):
    """Result of a duty: *values*, which are sent as JSON, and *descriptors*, which the helper closes once sent."""

    values: dict[str, Any]
    descriptors: Sequence[int] = ()


def fork(kept: int, run: Callable[[int], None], found: Limits | None, title: str) -> int:
    """Fork a process that runs *run* with descriptor *kept*, the only one it inherits. Return its pid.

    The kernel kills the process when the guardian exits. Raises OSError.
    """
    guardian = os.getpid()
    # As in spawn.launch: no signal may run the guardian's handlers in the child.
    blocked = signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
    try:
        pid = os.fork()
        if pid == 0:
            _be(kept, run, guardian, found, title)
    except BlockingIOError:
        raise OSError(errno.EAGAIN, shortage.NO_PROCESS) from None
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    return pid


def _be(kept: int, run: Callable[[int], None], guardian: int, found: Limits | None, title: str) -> NoReturn:
    """Run in the process that ``fork`` has created. Does not return."""
    try:
        if found is not None:
            process_limits.restore(found)
        gc.disable()  # a collection would write to every page, and so copy the memory shared with the guardian
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != guardian:
            os._exit(1)
        os.setpgid(0, 0)  # signals that a terminal sends to the guardian's process group must not reach it
        reset_signals()
        null = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(null, number)
        os.dup2(kept, 3)
        os.closerange(4, 1 << 20)
        if found is not None:
            process_limits.put_on(found, lambda _sentence: None)
            process_limits.raise_descriptors()  # it holds copies of the guardian's descriptors
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        if title:
            Title().set(title)
        run(3)
        os._exit(0)
    finally:
        os._exit(1)


def serve_all(kept: int, duties: Mapping[str, Duty]) -> None:
    """Run the guardian's requests, which arrive on the socket *kept*, until it closes its end."""
    with socket.socket(fileno=kept) as pair:
        while _serve(pair, duties):
            syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)  # a change of credentials clears it


def _serve(pair: socket.socket, duties: Mapping[str, Duty]) -> bool:
    """Run one request. Return False if the guardian has closed its end."""
    select.select([pair], [], [])
    data, descriptors, truncated = descriptor_passing.receive(pair, REQUEST_BYTES, BATCH)
    if not data:
        return False
    result = Result({})
    try:
        request = json.loads(data)
        if request["do"] == CLOSE:
            pair.recv(REQUEST_BYTES)  # sent once the guardian has closed its copies, so that ours are the last ones
        if truncated:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        result = duties[request["do"]](request["with"], descriptors)
        reply: dict[str, Any] = {"values": result.values}
    except OSError as error:
        reply = {"errno": error.errno or errno.EIO, "error": shortage.explain(error)}
    except MemoryError as error:
        reply = {"errno": errno.ENOMEM, "error": shortage.explain(error)}
    except Exception as error:
        reply = {"errno": errno.EIO, "error": repr(error), "fault": repr(error)}
    for descriptor in descriptors:
        with contextlib.suppress(OSError):  # EBADF: the duty has closed it
            os.close(descriptor)
    try:
        select.select([], [pair], [])
        descriptor_passing.send(pair, json.dumps(reply).encode(), list(result.descriptors))
    except OSError:  # the guardian is gone, or has closed its end
        return False
    for descriptor in result.descriptors:
        os.close(descriptor)
    return True


def close(_values: dict[str, Any], descriptors: list[int]) -> Result:
    """Disable SO_LINGER of sockets. The helper closes *descriptors* itself, as after every request."""
    for descriptor in descriptors:
        with contextlib.suppress(OSError):
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, fileno=descriptor)  # the family is irrelevant
            try:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\0" * 8)
            finally:
                sock.detach()
    return Result({})
