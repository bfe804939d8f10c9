"""The cleaner: a process that terminates the rest of the service if the guardian is killed.

The guardian forks it. It waits for the guardian's death, and depends on no other process: neither on the master, which
the kernel kills together with the guardian, nor on a response from any process.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import time
from typing import TYPE_CHECKING, NoReturn

from cluster_service.machine import notify_place, shortage
from cluster_service.machine.title import Title

from . import limits, spawn

if TYPE_CHECKING:
    from .boot import Boot
    from .known import Known
    from .limits import Limits
    from .logclient import Logs
    from .watching import Loop

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
            from .leftovers import Leftovers, wait_for  # noqa: PLC0415 - saves memory in the guardian

            limits.restore(self._limits)
            signal.set_wakeup_fd(-1)
            for number in signal.valid_signals():
                if number not in (signal.SIGKILL, signal.SIGSTOP):
                    signal.signal(number, signal.SIG_IGN)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            os.setpgid(0, 0)
            _keep_only(self._guardian, *(self._output or ()))
            limits.put_on(self._limits, lambda _sentence: None)
            limits.set_mark(0)  # if this service is itself a worker, the cleaner must outlive that worker's processes
            title = self._boot.title("cleaner")
            if title:
                Title().set(title)
            wait_for(self._guardian)
            os.close(self._guardian)
            marks = limits.marks_of(self.instance)
            marker = f"{VARIABLE}={self.instance}".encode()
            Leftovers(self._known, marker, self._since, self._say, marks).end(self._boot.stop_timeout)
            clean_up(self._boot.run_dir, self._boot.name)
            # The name of the sockets if the service had no lock: see NotifySockets.
            notify_place.remove_all(self._boot.run_dir, f"{self._boot.name}.{self._guardian_pid}")
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
            notify_place.remove_all(run_dir, name)
            for left in (f"{name}.sock", f".{name}.sock.cservice", f"{name}.lock"):  # the lock last, while it is held
                with contextlib.suppress(OSError):
                    os.unlink(os.path.join(run_dir, left))
    except OSError:  # the file is locked by another service, or has been removed
        return
    finally:
        os.close(descriptor)
