"""Reaping: the ends of processes, what is left of their groups, and children whose end a tracer withholds."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, NamedTuple

from cluster_service.wire.signals import signal_name

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Container, Iterator, Mapping

    from .holdings import Worker


class End(NamedTuple):
    """How a process ended: exactly one of the two is set."""

    code: int | None
    signal: int | None

    @property
    def failed(self) -> bool:
        """Whether it ended in any other way than with exit code 0."""
        return self.code != 0

    def __str__(self) -> str:
        if self.signal is None:
            return f"exited with code {self.code}"
        return f"was killed by {signal_name(self.signal)}"


def ended() -> Iterator[tuple[int, End]]:
    """Reap and yield every child that has ended."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        code = os.waitstatus_to_exitcode(status)
        yield pid, End(code, None) if code >= 0 else End(None, -code)


class Process(NamedTuple):
    """The content of /proc/PID/stat. *start*: in clock ticks since boot."""

    parent: int
    group: int
    start: int
    zombie: bool
    state: bytes = b"S"
    """The state letter of proc_pid_stat(5)."""


def look(pid: int) -> Process | None:
    """Return the state of *pid*, or None. Never blocks: reading stat does not access the process's memory."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The name, in parentheses, may contain anything; fields are unambiguous after the last parenthesis.
            fields = file.read().rpartition(b")")[2].split()
        # The first thread may have ended while others continue: the process lives until the last thread ends.
        zombie = fields[0] in (b"Z", b"X") and int(fields[17]) <= 1
        return Process(int(fields[1]), int(fields[2]), int(fields[19]), zombie, fields[0])
    except (OSError, ValueError, IndexError):
        return None


_MARK = b"Max file locks "


def mark_of(pid: int) -> int:
    """Return the mark that *pid* has inherited (``process_limits.RLIMIT_LOCKS``); 0: none."""
    try:
        with open(f"/proc/{pid}/limits", "rb") as file:
            for line in file:
                if line.startswith(_MARK):
                    value = line[len(_MARK) :].split()[0]
                    return int(value) if value.isdigit() else 0
    except (OSError, IndexError):
        pass
    return 0


def processes() -> dict[int, Process]:
    """Return all processes of the machine that this one may see, by pid."""
    found = ((int(entry), look(int(entry))) for entry in os.listdir("/proc") if entry.isdigit())
    return {pid: process for pid, process in found if process is not None}


def below(roots: Collection[int], known: Mapping[int, Process]) -> set[int]:
    """Return the descendants of *roots* among the processes *known*."""
    offspring: dict[int, list[int]] = {}
    for pid, process in known.items():
        offspring.setdefault(process.parent, []).append(pid)
    found: set[int] = set()
    todo = list(roots)
    while todo:
        for pid in offspring.get(todo.pop(), ()):
            if pid not in found:
                found.add(pid)
                todo.append(pid)
    return found


def living_groups() -> set[int]:
    """Return the process groups with a live member that descends from this process. Scans /proc once."""
    known = processes()
    return {known[pid].group for pid in below([os.getpid()], known) if not known[pid].zombie}


def signal_group(
    group: int,
    number: int,
    *,
    leader_lives: bool,
    others: Container[int] = (),
) -> bool:
    """Send *number* to every member of *group*. Return False if this number is no group of ours.

    *leader_lives*: its first process has not been reaped, so the number cannot have been reused. *others*: pids of live
    workers, one of which may have got the number since.
    """
    if not leader_lives:
        if group in others or not _exists(group):  # most groups are empty by then, and /proc need not be scanned
            return False
        if group not in living_groups():
            return False
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return leader_lives and _signal_leader(group, number)
    return True


def _signal_leader(pid: int, number: int) -> bool:
    """Signal a process that was just forked and has no process group of its own yet."""
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _exists(group: int) -> bool:
    """Return whether any process is in *group*, ours or not."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def children() -> set[int]:
    """Return the pids of all children of this process, which has a single thread."""
    own = os.getpid()
    try:
        with open(f"/proc/{own}/task/{own}/children", encoding="ascii") as file:
            return {int(pid) for pid in file.read().split()}
    except FileNotFoundError:  # a kernel without CONFIG_PROC_CHILDREN
        return {pid for pid, process in processes().items() if process.parent == own}


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
        for pid in children():
            process = None if pid in self._others else look(pid)
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
        ours = below([os.getpid()], processes())
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
