"""The ways the service ends.

Asked by SIGTERM or SIGINT: the master is told, and says ``Stopping`` when it takes the shutdown on. If it does not
within five seconds, or there is none, the guardian drains alone: the stop signal to every worker and, when its first
process has ended, to what it has left; SIGKILL to all of that after the stop timeout. A second signal: SIGKILL at
once. (Two within a quarter of a second are one: timeout(1) and others send each signal both to the process and to its
group.)

Asked by the master: ``Bye``. However it comes, in the end there is no process, no descriptor and no file left.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import signal
from typing import TYPE_CHECKING

from cluster_service.machine import files
from cluster_service.wire import facts

from . import apart, child, reap

if TYPE_CHECKING:
    from collections.abc import Callable

    from .boot import Boot
    from .cleaner import Cleaner
    from .faults import Faults
    from .helper import Helper
    from .holdings import Holdings, Worker
    from .keeper import Keeper
    from .leaving import Leaving
    from .logclient import Logs
    from .ports import Ports
    from .remains import Remains
    from .watching import Loop

TAKEOVER_TIME = 5.0
"""Seconds that a master has to say ``Stopping``."""
_ONE_SIGNAL = 0.25
_MASTER_TIME = 3.0
_KILL_TIME = 5.0
_HELPER_TIME = 3.0
"""Seconds for what the helper still has to do: files to be removed, sockets to be closed."""
_WRITER_TIME = 6.0
"""Seconds that the log writer has for what it still has to write, as long as it makes progress."""
_WRITER_PATIENCE = {True: 0.5, False: 2.0}
"""Seconds without progress after which the log writer is killed; True: the service was told to end at once."""
_LOOK_AGAIN = 0.1
"""Seconds between two looks at the progress of the log writer."""
_REPORT_TIME = 0.5
"""Seconds for writing to standard error what the log writer could not."""


class Ending:
    """Whether, how and when the service ends."""

    def __init__(
        self,
        boot: Boot,
        holdings: Holdings,
        keeper: Keeper,
        ports: Ports,
        logs: Logs,
        helper: Helper,
        loop: Loop,
        cleaner: Cleaner,
        faults: Faults,
        remains: Remains,
    ) -> None:
        self._boot = boot
        self._holdings = holdings
        self._keeper = keeper
        self._ports = ports
        self._logs = logs
        self._helper = helper
        self._loop = loop
        self._cleaner = cleaner
        self._faults = faults
        self._remains = remains
        self.before = reap.children()
        """Children that this process had before it was the guardian: none of ours."""
        self.leaving: Leaving
        self.code: int | None = None
        """The exit code, once the end has come."""
        self.draining = False
        self._at_once = False
        """Workers were still running when the end came."""
        self._asked_at: float | None = None
        self._takeover_by: float | None = None
        self._end_by: float | None = None
        self._kill_by: float | None = None

    # ------------------------------------------------------------ asked

    def signalled(self, name: str, now: float) -> None:
        """The guardian was sent a signal that means: end."""
        if self._asked_at is not None:
            if now - self._asked_at >= _ONE_SIGNAL:
                self._logs.line(f"a second {name}: ending at once")
                self.finish(0)
            return
        self._asked_at = now
        self._holdings.stopping = True
        self._keeper.tell(facts.Signalled(name))
        if self._keeper.master is None:
            self._drain(now, "there is no master")
        else:
            self._takeover_by = now + TAKEOVER_TIME

    def taken_over(self, deadline: float) -> None:
        """The master does the shutdown, in *deadline* seconds at most (0: as long as it takes)."""
        self._takeover_by = None
        self._end_by = self._loop.now() + deadline if deadline > 0 else None

    def master_lost(self, now: float) -> None:
        """A master has ended: in the midst of a shutdown the next one has to take it on anew."""
        if self._holdings.stopping and not self.draining:
            self._takeover_by = now + TAKEOVER_TIME

    def finish(self, code: int) -> None:
        """End now."""
        if self.code is None:
            self.code = code
            self._at_once = bool(self._holdings.by_pid)

    # ------------------------------------------------------------ time

    def deadline(self) -> float | None:
        """When ``tick`` has something to do."""
        times = [time for time in (self._takeover_by, self._end_by, self._kill_by) if time is not None]
        return min(times, default=None)

    def tick(self, now: float) -> None:
        """Do what has become due."""
        if self._takeover_by is not None and now >= self._takeover_by:
            self._drain(now, "the master does not take the shutdown on")
        if self._end_by is not None and now >= self._end_by:
            self._logs.line("the time of the shutdown is over: ending what is left")
            self.finish(0)
        if self._kill_by is not None and now >= self._kill_by:
            self._kill_by = None
            self._logs.line("the stop timeout is over: killing what is left")
            self._kill_workers()
        if self.draining and not self._holdings.by_pid and not self._remains:
            self.finish(0)

    def left(self, worker: Worker) -> None:
        """*worker* has exited. Where there is no master to decide it, what it left has the rest of the stop timeout."""
        if self.draining:
            now = self._loop.now()
            self._remains.end(worker, now, max(0.0, (self._kill_by or now) - now))

    def _drain(self, now: float, why: str) -> None:
        self._takeover_by = self._end_by = None
        self.draining = True
        self._kill_by = now + self._boot.stop_timeout
        self._logs.line(f"{why}: stopping {len(self._holdings.by_pid)} workers without it")
        self._faults.run(
            "draining",
            lambda: self._keeper.retire(now),
            *(functools.partial(self._stop, worker) for worker in self._holdings.alive()),
            lambda: self._ports.close_all(doors=False),
            *(functools.partial(self.left, worker) for worker in self._holdings.workers.values() if worker.exited),
        )

    def _stop(self, worker: Worker) -> None:
        seconds = min(worker.drain, self._boot.stop_timeout / 2)
        self.leaving.begin(worker, seconds, lambda: None if worker.exited else _ask(worker), worker.stop_signal)

    def _kill_workers(self) -> None:
        for worker in list(self._holdings.workers.values()):
            worker.killed = True
            reap.signal_group(worker.pid, signal.SIGKILL, leader_lives=not worker.exited, others=self._holdings.by_pid)

    # ------------------------------------------------------------ the end

    def close_down(self, turn: Callable[[float], None], *more: Callable[[], object]) -> None:
        """Leave nothing behind. *turn* runs the loop once, until a time of the monotonic clock at most, and reaps.

        *more*: steps to be taken before the lock is released.
        """
        self._keeper.retired = True
        self._faults.run(
            "the end of the service",
            self._cleaner.end,
            self._kill_workers,
            self._ports.close_all,
            self._keeper.hang_up,
            lambda: self._wait(turn, _MASTER_TIME, lambda: self._keeper.master is not None and not self.draining),
            self._keeper.kill_now,
            lambda: self._wait(turn, _HELPER_TIME, lambda: self._helper.busy),
            self._helper.end,
            lambda: self._wait(turn, _KILL_TIME, self._kill_children),
            lambda: self._end_writer(turn),
            *more,
            self._remove_files,
        )

    def _wait(
        self, turn: Callable[[float], None], seconds: float, unfinished: Callable[[], bool], step: float = math.inf
    ) -> None:
        """Run the loop until *unfinished* returns false; it is called after each event, and every *step* seconds."""
        end = self._loop.now() + seconds
        while unfinished() and (now := self._loop.now()) < end:
            turn(min(end, now + step))

    def _end_writer(self, turn: Callable[[float], None]) -> None:
        """Let the log writer end. If it makes no progress it is killed, and what it did not take is reported."""
        patience = _WRITER_PATIENCE[self._at_once and self._logs.answered]
        self._wait(turn, _WRITER_TIME, lambda: self._logs.finish(patience), _LOOK_AGAIN)
        lost, pid = self._logs.lost(), self._logs.pid
        self._logs.kill()
        self._wait(turn, _KILL_TIME, lambda: self._logs.pid is not None)
        if lost:
            why = f"killed the log writer (pid {pid}), which made no progress" if pid else "there was no log writer"
            self._say(turn, f"[cservice] {why}; lost: {lost}\n".encode())

    def _say(self, turn: Callable[[float], None], text: bytes) -> None:
        """Write to standard error, which may not take it: in a process of its own, for ``_REPORT_TIME`` at most."""
        own = os.dup(2)
        try:
            pid = apart.fork(own, lambda kept: child.report(kept, text), None, "")
        finally:
            os.close(own)
        self._wait(turn, _REPORT_TIME, lambda: pid in reap.children())
        if pid in reap.children():
            os.kill(pid, signal.SIGKILL)

    def _kill_children(self) -> bool:
        """SIGKILL every child but the log writer; what they leave becomes our child. Whether there were any."""
        left = reap.children() - self.before - {self._logs.pid or 0}
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return bool(left)

    def _remove_files(self) -> None:
        paths = [self._boot.pid_file] if self._boot.pid_file and _names_us(self._boot.pid_file) else []
        if self._boot.lock_fd is not None:  # removed while it is held: nobody can have taken it over
            paths.append(os.path.join(self._boot.run_dir, f"{self._boot.name}.lock"))
        for path in paths:
            with contextlib.suppress(OSError):
                files.remove(path)


def _ask(worker: Worker) -> None:
    worker.stopped = True
    with contextlib.suppress(ProcessLookupError):
        os.kill(worker.pid, worker.stop_signal)


def _names_us(pid_file: str) -> bool:
    try:
        with open(files.open_for_reading(pid_file), "rb") as file:
            return file.read(64).strip() == b"%d" % os.getpid()
    except OSError:
        return False
