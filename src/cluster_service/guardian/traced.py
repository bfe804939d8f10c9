"""Detection of children that cannot be reaped because of a tracer, and termination of the tracer.

If a process traces another one with ptrace(2), the kernel reports the exit of any traced thread to the tracer. The
parent can reap the child only after the tracer has waited for it or has exited. A tracer that stops its tracee at exit
(PTRACE_O_TRACEEXIT) even prevents it from becoming a zombie, and its pidfd does not become readable. Therefore the
guardian regularly reads the state of its children in /proc, which never blocks. A debugger waits within milliseconds; a
tracer that has not done so by the next check is killed if it descends from this process or runs as the child's user.
"""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, NamedTuple

from . import reap

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterator, Mapping

    from .holdings import Worker

LOOK_SECONDS, IDLE_LOOK_SECONDS = 1.0, 5.0
"""Seconds between two checks; the longer interval applies while no child has ended or was asked to.

A child found dead in two consecutive checks is considered withheld by a tracer.
"""
MAX_THREADS = 4096
"""Maximum threads of one child, and tracers that trace each other, examined in one check."""

_PF_EXITING, _PF_SIGNALED = 0x4, 0x400  # linux/sched.h
_KILL_PENDING = 1 << (signal.SIGKILL - 1)
_ENDED = (b"Z", b"X")
_ENDED_OR_STOPPED = (*_ENDED, b"t")


class _Thread(NamedTuple):
    """State of one thread, from /proc/TID/stat and /proc/TID/status."""

    process: int
    tracer: int
    """Id of the tracing thread; 0: none."""
    user: int
    is_dying: bool


def _read_thread(tid: int) -> _Thread | None:
    try:
        with open(f"/proc/{tid}/stat", "rb") as file:
            stat = file.read().rpartition(b")")[2].split()
        with open(f"/proc/{tid}/status", "rb") as file:
            status = dict(line.split(b":", 1) for line in file if b":" in line)
        pending = int(status[b"SigPnd"], 16) | int(status[b"ShdPnd"], 16)
        is_dying = stat[0] in _ENDED or bool(int(stat[6]) & (_PF_EXITING | _PF_SIGNALED) or pending & _KILL_PENDING)
        return _Thread(int(status[b"Tgid"]), int(status[b"TracerPid"]), int(status[b"Uid"].split()[0]), is_dying)
    except (OSError, ValueError, LookupError):
        return None


def _read_threads(pid: int) -> Iterator[_Thread]:
    try:
        tids = os.listdir(f"/proc/{pid}/task")[:MAX_THREADS]
    except OSError:
        return
    for tid in tids:
        thread = _read_thread(int(tid))
        if thread is not None:
            yield thread


def find_tracers(pid: int, *, killed: bool) -> set[int]:
    """Return the processes that trace the dead process *pid*, and their tracers; none if a thread of it lives.

    *killed*: it was sent SIGKILL. The kernel drops that signal if the process is exiting, without a trace in /proc.
    """
    threads = list(_read_threads(pid))
    if not killed and not all(thread.is_dying for thread in threads):
        return set()
    found: set[int] = set()
    while threads and len(found) < MAX_THREADS:
        tracer = _read_thread(threads.pop().tracer)
        if tracer is not None and tracer.process not in found:
            found.add(tracer.process)
            threads += _read_threads(tracer.process)
    return found


class Traced:
    """Finds dead children that cannot be reaped, and kills their tracers."""

    def __init__(self, others: Container[int], workers: Mapping[int, Worker], log: Callable[[str], None]) -> None:
        """*others*: children to ignore; *workers*: the workers that have not been reaped, by pid."""
        self._others = others
        self._workers = workers
        self._log = log
        self._seen: set[tuple[int, int]] = set()
        """Pid and start time of the children that were dead at the last check."""
        self._reported: set[tuple[int, int, int]] = set()
        """Pid, start time and tracer of reported cases."""
        self._looked_at = -IDLE_LOOK_SECONDS

    def deadline(self) -> float | None:
        """Return when ``tick`` is due next."""
        expected = self._seen or any(worker.signals or worker.killed for worker in self._workers.values())
        return self._looked_at + (LOOK_SECONDS if expected else IDLE_LOOK_SECONDS)

    def tick(self, now: float) -> None:
        """Check the children if due. Every child that can be reaped has been reaped before."""
        if now < (self.deadline() or 0.0):
            return
        self._looked_at = now
        seen = set()
        for pid in reap.children():
            process = None if pid in self._others else reap.look(pid)
            if process is not None and process.state in _ENDED_OR_STOPPED:
                seen.add((pid, process.start))
        withheld, self._seen = seen & self._seen, seen
        self._reported = {key for key in self._reported if key[:2] in seen}
        for pid, start in withheld:
            self._end_tracers(pid, start)

    def _end_tracers(self, pid: int, start: int) -> None:
        worker = self._workers.get(pid)
        killed = worker is not None and worker.killed
        tracers = find_tracers(pid, killed=killed) - {os.getpid()}
        child = _read_thread(pid)
        if not tracers or child is None:
            return
        ours = reap.below([os.getpid()], reap.processes())
        for tracer in sorted(tracers):
            outcome = _kill(tracer, child.user, lambda: find_tracers(pid, killed=killed), is_ours=tracer in ours)
            if outcome and (pid, start, tracer) not in self._reported:
                self._reported.add((pid, start, tracer))
                self._log(f"cannot reap {worker or f'process {pid}'}: process {tracer} traces it; {outcome}")


def _kill(tracer: int, user: int, find: Callable[[], set[int]], *, is_ours: bool) -> str:
    """Kill *tracer* if *find* still returns it and its user permits. Return the outcome; empty if it has ended."""
    try:
        pidfd = os.pidfd_open(tracer)
    except OSError:
        return ""
    try:
        found = _read_thread(tracer)
        if found is None or tracer not in find():  # the pid may have been reused
            return ""
        if not is_ours and found.user != user:
            return f"it runs as another user (uid {found.user}): end it"
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except ProcessLookupError:
        return ""
    except OSError as error:
        return f"cannot kill it: {error.strerror}; end it"
    finally:
        os.close(pidfd)
    return "killed it"
