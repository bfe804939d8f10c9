"""The cleaner: a process that ends what is left of the service when the guardian is killed."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import signal
import time
from typing import TYPE_CHECKING, NoReturn

from cluster_service.machine import files, shortage
from cluster_service.machine.process_title import Title

from . import process_limits, reaping, socket_factory, spawn
from .holdings import SIGNAL_BITS
from .process_limits import MARK_BITS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from .boot_message import Boot
    from .event_loop import Loop
    from .holdings import Known
    from .log_client import Logs
    from .process_limits import Limits

VARIABLE = "CSERVICE_INSTANCE"
SOURCE = 0
"""Number of the cleaner as a log source: workers have positive numbers, masters negative ones."""
_START_AGAIN = 1.0
"""Seconds until the cleaner is restarted."""


class Cleaner:
    """Guardian's interface to the cleaner: starts and restarts it."""

    def __init__(self, boot: Boot, loop: Loop, logs: Logs, limits: Limits, known: Known) -> None:
        self._boot = boot
        self._loop = loop
        self._logs = logs
        self._limits = limits
        self._known = known
        self._since = _ticks_now()
        self.instance = os.urandom(16).hex()
        """Value of ``CSERVICE_INSTANCE`` in the environment of workers and masters."""
        self.pid: int | None = None
        self._ended = False
        self._short = False
        """True if the last attempt to start it failed."""
        self._start_at: float | None = 0.0
        self._guardian_pid = os.getpid()
        self._guardian = os.pidfd_open(self._guardian_pid)
        self._output: tuple[int, int] | None = None

    def deadline(self) -> float | None:
        """Return when to call ``tick`` next, or None."""
        return self._start_at

    def tick(self, now: float) -> None:
        """Start the cleaner if that is due at *now*; retry later if it fails."""
        if self._start_at is not None and now >= self._start_at:
            try:
                self._start()
            except (OSError, MemoryError) as error:
                self._start_at = now + _START_AGAIN
                if not self._short:
                    why = shortage.NO_PROCESS if getattr(error, "errno", 0) == errno.EAGAIN else shortage.explain(error)
                    self._logs.line(f"cannot start the cleaner: {why}; retrying")
                self._short = True
            else:
                self._start_at, self._short = None, False

    def _start(self) -> None:
        if self._output is None:
            with spawn.Resources() as resources:
                outs, errs = resources.pipe(), resources.pipe()
                resources.keep(*outs, *errs)
            self._logs.add(SOURCE, "cservice", outs[0], errs[0])
            self._output = (outs[1], errs[1])
            for descriptor in self._output:
                os.set_blocking(descriptor, False)
        blocked = signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
        try:
            pid = os.fork()
            if pid == 0:
                self._be()
            self.pid = pid
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)

    def reaped(self, now: float) -> None:
        """Handle the exit of the cleaner, and schedule its restart."""
        self.pid = None
        if not self._ended:
            self._start_at = now + _START_AGAIN

    def end(self) -> None:
        """Kill the cleaner and close its descriptors: the guardian shuts down in an orderly way."""
        self._start_at, self._ended = None, True
        if self.pid is not None:
            os.kill(self.pid, signal.SIGKILL)
        for descriptor in (*(self._output or ()), self._guardian):
            os.close(descriptor)
        self._output = None

    def _be(self) -> NoReturn:
        """Run the cleaner in the forked process. Does not return."""
        try:

            process_limits.restore(self._limits)
            signal.set_wakeup_fd(-1)
            for number in signal.valid_signals():
                if number not in (signal.SIGKILL, signal.SIGSTOP):
                    signal.signal(number, signal.SIG_IGN)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            os.setpgid(0, 0)
            _keep_only(self._guardian, *(self._output or ()))
            process_limits.put_on(self._limits, lambda _sentence: None)
            # If this service is itself a worker, the cleaner must outlive that worker's processes.
            process_limits.set_mark(0)
            title = self._boot.title("cleaner")
            if title:
                Title().set(title)
            wait_for(self._guardian)
            os.close(self._guardian)
            marks = process_limits.marks_of(self.instance)
            marker = f"{VARIABLE}={self.instance}".encode()
            Leftovers(self._known, marker, self._since, self._say, marks).end(self._boot.stop_timeout)
            clean_up(self._boot.run_dir, self._boot.name)
            # The name of the sockets if the service had no lock: see NotifySockets.
            files.remove_all(self._boot.run_dir, f"{self._boot.name}.{self._guardian_pid}")
        except BaseException as error:  # noqa: BLE001 - logged: no caller could handle it
            self._say(f"the cleaner failed: {error!r}")
        finally:
            os._exit(0)

    def _say(self, text: str) -> None:
        with contextlib.suppress(OSError):
            os.write((self._output or (2, 2))[1], f"{text}\n".encode("utf-8", "replace"))


def _keep_only(*kept: int) -> None:
    """Close all descriptors except *kept*; redirect standard input, output and error to /dev/null."""
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    begin = 3
    for descriptor in sorted(kept):
        os.closerange(begin, descriptor)
        begin = descriptor + 1
    os.closerange(begin, 1 << 20)


def _ticks_now() -> int:
    """Return the current time in the unit of a process's start time in /proc/PID/stat: clock ticks since boot."""
    return int(time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK"))


def clean_up(run_dir: str, name: str) -> None:
    """Remove the guardian's files from its run directory, unless another service of that name is running."""
    if not run_dir:
        return
    lock = os.path.join(run_dir, f"{name}.lock")
    try:
        descriptor = os.open(lock, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(descriptor), os.stat(lock)):
            files.remove_all(run_dir, name)
            for left in (f"{name}.sock", f".{name}.sock.cservice", f"{name}.lock"):  # the lock last, while it is held
                with contextlib.suppress(OSError):
                    os.unlink(os.path.join(run_dir, left))
    except OSError:  # the file is locked by another service, or has been removed
        return
    finally:
        os.close(descriptor)


_LOOK_AGAIN = 1.0
"""Seconds until the next search for processes, unless a known one ends before."""
_KILL_TIME = 10.0
"""Seconds after the first SIGKILL until processes that cannot be killed are given up."""
_ENVIRONMENT_TIME = 0.5
_MAX_ENVIRONMENTS = 256
"""Maximum number of environments read at a time."""
_MAX_ENVIRONMENT_BYTES = 1 << 20


def wait_for(pidfd: int, seconds: float | None = None) -> bool:
    """Wait for a process to end, for at most *seconds*; return whether it has ended."""
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    return bool(poller.poll(None if seconds is None else seconds * 1000))


class Leftovers:
    """The processes that a dead guardian left behind.

    *marker*: content of their environment; *since*: start of the service in clock ticks; *say*: writes a line; *marks*:
    common part of the marks of its workers (``process_limits.marks_of``).
    """

    def __init__(self, known: Known, marker: bytes, since: int, say: Callable[[str], None], marks: int = 0) -> None:
        self._groups = known.groups.read()
        numbers = known.stop_signals.read()
        self._stop_signals = {number >> SIGNAL_BITS: number & (1 << SIGNAL_BITS) - 1 for number in numbers}
        self._sockets = {f"socket:[{inode}]" for inode in known.sockets.read()}
        self._marker = marker
        self._since = since
        self._say = say
        self._marks = marks >> MARK_BITS
        self._parent = os.getppid()
        """The process to which the guardian's children were reparented."""
        self._ours: dict[tuple[int, int], int] = {}
        """Pid and start time -> a pidfd."""
        self._others: set[tuple[int, int]] = set()
        """Children of the same parent that are not ours."""

    def end(self, seconds: float) -> None:
        """Terminate all processes; send SIGKILL after *seconds*."""
        deadline = time.monotonic() + seconds
        self._look()
        self._say("the guardian has died: ending the workers")
        for process in self._ours:
            self._ask(process)
        asked = set(self._ours)
        while self._ours:
            now = time.monotonic()
            if now >= deadline + _KILL_TIME:
                self._say(f"cannot end {', '.join(str(pid) for pid, _ in self._ours)}")
                return
            if now >= deadline:
                for pidfd in self._ours.values():
                    _send(pidfd, signal.SIGKILL)
            elif not any(pid in self._groups for pid, _ in self._ours):  # workers have ended: stop their children
                for process in self._ours.keys() - asked:
                    self._ask(process)
                asked |= self._ours.keys()
            self._wait(min(_LOOK_AGAIN, max(0.05, deadline - now)))
            self._look()

    def _ask(self, process: tuple[int, int]) -> None:
        """Send the stop signal of the worker whose process group contains *process*; SIGTERM if there is none."""
        found = reaping.look(process[0])
        group = found.group if found is not None else 0
        _send(self._ours[process], self._stop_signals.get(group, signal.SIGTERM))

    def _wait(self, seconds: float) -> None:
        poller = select.poll()
        for pidfd in self._ours.values():
            poller.register(pidfd, select.POLLIN)
        poller.poll(seconds * 1000)

    def _look(self) -> None:
        """Add new processes and remove those that have ended."""
        processes = reaping.processes()
        for key in [key for key in self._ours if _gone(key, processes)]:
            os.close(self._ours.pop(key))
        candidates = {
            (pid, process.start)
            for pid, process in processes.items()
            if process.parent == self._parent and process.start >= self._since and pid != os.getpid()
        }
        new = candidates - self._others - self._ours.keys()
        proven = {key for key in new if self._is_ours(key[0], processes[key[0]])}
        asked = set(list(new - proven)[:_MAX_ENVIRONMENTS])
        proven |= self._marked(asked)
        self._others = (self._others & candidates) | (asked - proven)
        roots = {pid for pid, _ in (*self._ours, *proven)}
        for pid in reaping.below(roots, processes) | roots:
            self._take(pid, processes[pid].start)

    def _is_ours(self, pid: int, process: reaping.Process) -> bool:
        if self._marks and reaping.mark_of(pid) >> MARK_BITS == self._marks:
            return True
        if {pid, process.group} & self._groups:
            return True
        return bool(self._sockets) and socket_factory.holds(pid, self._sockets)

    def _take(self, pid: int, start: int) -> None:
        if (pid, start) in self._ours:
            return
        with contextlib.suppress(OSError):  # it has ended
            pidfd = os.pidfd_open(pid)
            process = reaping.look(pid)  # the process of this pidfd, unless it has ended
            if process is not None and process.start == start and not process.zombie:
                self._ours[pid, start] = pidfd
            else:
                os.close(pidfd)

    def _marked(self, candidates: Iterable[tuple[int, int]]) -> set[tuple[int, int]]:
        """Return those with the marker in their environment. An environment not read in time does not count."""
        readers: dict[int, tuple[tuple[int, int], int]] = {}
        for key in candidates:
            try:
                pid = os.fork()
            except OSError:
                break
            if pid == 0:
                _answer(key[0], self._marker)
            readers[pid] = (key, os.pidfd_open(pid))
        end = time.monotonic() + _ENVIRONMENT_TIME
        found = set()
        for pid, (key, pidfd) in readers.items():
            if not wait_for(pidfd, max(0.0, end - time.monotonic())):
                _send(pidfd, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                ended, status = os.waitpid(pid, os.WNOHANG)
                if ended and os.WIFEXITED(status) and os.WEXITSTATUS(status) == 1:
                    found.add(key)
            os.close(pidfd)
        return found


def _answer(pid: int, marker: bytes) -> NoReturn:
    """Exit with 1 if the environment of *pid* contains *marker*. Runs in a separate process."""
    code = 0
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            code = int(marker in file.read(_MAX_ENVIRONMENT_BYTES).split(b"\0"))
    finally:
        os._exit(code)


def _gone(key: tuple[int, int], processes: Mapping[int, reaping.Process]) -> bool:
    process = processes.get(key[0])
    return process is None or process.start != key[1] or process.zombie


def _send(pidfd: int, number: int) -> None:
    with contextlib.suppress(OSError):  # it has ended, or its user has changed
        signal.pidfd_send_signal(pidfd, number)
