"""Detection and termination of the processes that a dead guardian left behind.

Only processes proven to belong to the service are terminated. The children of a dead guardian are reparented to the
process that also became this one's parent. Of those children, if younger than the service, this module selects the ones
that have the mark of a worker (``remains``), are in the process group of a worker or master, hold a socket opened by
the guardian, or whose initial environment contains this guardian's random ``CSERVICE_INSTANCE``; and all their
descendants. Each is signalled through a pidfd after its start time has been compared. Where no mark can be set, a
process that has left its group, cleared its environment and holds no port of ours is not found.

Each process is first sent its worker's stop signal, then SIGKILL when ``stop_timeout`` has elapsed. /proc/PID/environ
is read in separate processes: it is in the memory of the target process, and reading it can block.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from typing import TYPE_CHECKING, NoReturn

from . import reap, strangers
from .known import SIGNAL_BITS
from .limits import MARK_BITS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from .known import Known

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
    common part of the marks of its workers (``limits.marks_of``).
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
        found = reap.look(process[0])
        group = found.group if found is not None else 0
        _send(self._ours[process], self._stop_signals.get(group, signal.SIGTERM))

    def _wait(self, seconds: float) -> None:
        poller = select.poll()
        for pidfd in self._ours.values():
            poller.register(pidfd, select.POLLIN)
        poller.poll(seconds * 1000)

    def _look(self) -> None:
        """Add new processes and remove those that have ended."""
        processes = reap.processes()
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
        for pid in reap.below(roots, processes) | roots:
            self._take(pid, processes[pid].start)

    def _is_ours(self, pid: int, process: reap.Process) -> bool:
        if self._marks and reap.mark_of(pid) >> MARK_BITS == self._marks:
            return True
        if {pid, process.group} & self._groups:
            return True
        return bool(self._sockets) and strangers.holds(pid, self._sockets)

    def _take(self, pid: int, start: int) -> None:
        if (pid, start) in self._ours:
            return
        with contextlib.suppress(OSError):  # it has ended
            pidfd = os.pidfd_open(pid)
            process = reap.look(pid)  # the process of this pidfd, unless it has ended
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


def _gone(key: tuple[int, int], processes: Mapping[int, reap.Process]) -> bool:
    process = processes.get(key[0])
    return process is None or process.start != key[1] or process.zombie


def _send(pidfd: int, number: int) -> None:
    with contextlib.suppress(OSError):  # it has ended, or its user has changed
        signal.pidfd_send_signal(pidfd, number)
