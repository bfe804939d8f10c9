"""The processes that remain when a worker's first process has ended, and their termination.

A worker's processes are those in its process group, those with its *mark*, and their descendants. The mark is the soft
limit RLIMIT_LOCKS, which Linux has not enforced since 2.4.25: every descendant inherits it, even one that creates a new
session, clears its environment or changes its title. Where the limit cannot be set, only the group counts.

Each process is sent the worker's stop signal once, then SIGKILL after the deadline, repeatedly until none is left.
"""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cluster_service.wire import facts

from . import reaping

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from .holdings import Holdings, Worker
    from .log_client import Logs

SETTLE_SECONDS = 0.25
"""Processes that end by themselves within this time are not signalled, unless their worker was asked to stop."""
_LOOK_AGAIN_SECONDS = 0.5
"""Seconds until the next search for processes, unless a child of the guardian ends before."""
_KILL_AGAIN_SECONDS = 0.05
_MAX_LOOKS = 5
"""Consecutive searches while processes are ending."""
_MAX_NAMED = 5
"""Maximum number of pids in a log line."""


@dataclass(eq=False, repr=False)
class _Rest:
    """The remaining processes of one worker. Times are monotonic seconds."""

    worker: Worker
    ask_at: float
    kill_at: float
    look_at: float
    asked: set[tuple[int, int]] = field(default_factory=set)
    """Pid and start time of each process that was sent the stop signal."""
    killed: set[tuple[int, int]] = field(default_factory=set)


class Remains:
    """Terminates the remaining processes of workers."""

    def __init__(self, holdings: Holdings, logs: Logs) -> None:
        self._holdings = holdings
        self._logs = logs
        self._rests: dict[int, _Rest] = {}
        self.tell: Callable[..., None]

    def __bool__(self) -> bool:
        """Return whether any processes are still being terminated."""
        return bool(self._rests)

    def count(self, worker: Worker) -> int:
        """Return the number of remaining processes of *worker*, whose first process has ended."""
        return len(self._left([worker])[worker.number])

    def end(self, worker: Worker, now: float, seconds: float) -> None:
        """Terminate the remaining processes of *worker*: SIGKILL in *seconds*. ``Swept`` follows if there were any.

        Calling it again for the same worker can only shorten the time.
        """
        rest = self._rests.get(worker.number)
        if rest is None:
            ask_at = now if "stop" in worker.signals or worker.stopped else now + min(SETTLE_SECONDS, seconds)
            rest = self._rests[worker.number] = _Rest(worker, ask_at, now + seconds, now)
        rest.kill_at = min(rest.kill_at, now + seconds)
        rest.look_at = now
        self.tick(now)

    def changed(self) -> None:
        """Search immediately, because a child that is not a worker has ended."""
        for rest in self._rests.values():
            rest.look_at = 0.0

    def suspended(self, seconds: float) -> None:
        """Extend the deadlines by the time for which this process did not run."""
        for rest in self._rests.values():
            rest.ask_at += seconds
            rest.kill_at += seconds

    def deadline(self) -> float | None:
        """Return when ``tick`` is due next."""
        return min((rest.look_at for rest in self._rests.values()), default=None)

    def tick(self, now: float) -> None:
        """Run everything that is due."""
        due = [rest for rest in self._rests.values() if now >= rest.look_at]
        if not due:
            return
        for rest in due:  # if the search fails, it is retried
            rest.look_at = now + _LOOK_AGAIN_SECONDS
        left = self._left([rest.worker for rest in due])
        for rest in due:
            self._look(rest, left[rest.worker.number], now)

    def _look(self, rest: _Rest, left: dict[int, reaping.Process], now: float) -> None:
        if not left:
            self._ended(rest)
            return
        worker = rest.worker
        outside = [pid for pid, process in left.items() if process.group != worker.pid]
        if not worker.background and outside and now >= rest.ask_at:
            worker.background = min(outside, key=lambda pid: left[pid].start)
        if now >= rest.kill_at:
            _send(left, signal.SIGKILL)
            rest.killed |= _keys(left)
            rest.look_at = now + _KILL_AGAIN_SECONDS
        elif now >= rest.ask_at:
            new = {pid: process for pid, process in left.items() if (pid, process.start) not in rest.asked}
            _send(new, worker.stop_signal)
            rest.asked |= _keys(new)
            rest.look_at = min(rest.kill_at, now + _LOOK_AGAIN_SECONDS)
        else:
            rest.look_at = rest.ask_at

    def _ended(self, rest: _Rest) -> None:
        worker = rest.worker
        del self._rests[worker.number]
        if rest.killed:
            pids = sorted(pid for pid, _ in rest.killed)
            more = f" and {len(pids) - _MAX_NAMED} more" if len(pids) > _MAX_NAMED else ""
            named = ", ".join(map(str, pids[:_MAX_NAMED]))
            self._logs.line(f"{worker.label} (pid {worker.pid}) had left processes, which were killed: {named}{more}")
        if worker.left:
            worker.left = 0
            self.tell(facts.Swept(worker.number, worker.background))

    def _left(self, workers: Collection[Worker]) -> dict[int, dict[int, reaping.Process]]:
        """Return the remaining processes of each of *workers*, by its number."""
        for _ in range(_MAX_LOOKS):
            left, settled = self._look_once(workers)
            if settled:
                break
        return left

    def _look_once(self, workers: Collection[Worker]) -> tuple[dict[int, dict[int, reaping.Process]], bool]:
        """Also return whether the result is complete: if a process ends meanwhile, its children may be missed."""
        found: dict[int, set[int]] = {worker.number: set() for worker in workers}
        marks = {worker.mark: worker.number for worker in workers if worker.mark}
        groups = {worker.pid: worker.number for worker in workers if worker.pid not in self._holdings.by_pid}
        settled = True
        for pid in reaping.children() - self._holdings.by_pid.keys():  # orphans are children of this process
            process = reaping.look(pid)
            if process is None or process.zombie:
                settled = False
                continue
            number = groups.get(process.group) or marks.get(reaping.mark_of(pid))
            if number is not None:
                found[number].add(pid)
        known = reaping.processes() if any(found.values()) else {}
        left = {
            number: {pid: known[pid] for pid in reaping.below(roots, known) | roots if _lives(known.get(pid))}
            for number, roots in found.items()
        }
        return left, settled and all(pid in left[number] for number, roots in found.items() for pid in roots)


def _lives(process: reaping.Process | None) -> bool:
    return process is not None and not process.zombie


def _keys(left: dict[int, reaping.Process]) -> set[tuple[int, int]]:
    return {(pid, process.start) for pid, process in left.items()}


def _send(left: dict[int, reaping.Process], number: int) -> None:
    for pid, process in left.items():
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:  # it has ended
            continue
        try:
            found = reaping.look(pid)
            if found is not None and found.start == process.start:
                signal.pidfd_send_signal(pidfd, number)
        except OSError:  # it has ended, or its user has changed
            pass
        finally:
            os.close(pidfd)
