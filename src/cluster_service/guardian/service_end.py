"""Shutdown of the service.

On SIGTERM or SIGINT the guardian notifies the master, which answers ``Stopping`` when it takes over the shutdown. If
it does not within five seconds, or there is no master, the guardian drains the service itself: it sends the stop signal
to every worker and, once a worker has exited, to the processes that it left; after the stop timeout it sends SIGKILL to
all of them. After a second signal it sends SIGKILL immediately. (Two signals within a quarter of a second count as one:
timeout(1) and others send each signal both to the process and to its group.)

The master ends the service with ``Bye``. In every case, no process, descriptor or file remains.
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

from . import forked_child, reaping

if TYPE_CHECKING:
    from collections.abc import Callable

    from .boot_message import Boot
    from .cleaner import Cleaner
    from .event_loop import Faults, Loop
    from .helper_client import Helper
    from .holdings import Holdings, Worker
    from .leftover_processes import Remains
    from .log_client import Logs
    from .master_supervisor import Keeper
    from .per_slot_sockets import Leaving
    from .port_service import Ports

TAKEOVER_TIME = 5.0
"""Seconds within which a master must send ``Stopping``."""
_ONE_SIGNAL = 0.25
_MASTER_TIME = 3.0
_KILL_TIME = 5.0
_HELPER_TIME = 3.0
"""Seconds for the helper to finish its requests: removing files and closing sockets."""
_WRITER_TIME = 6.0
"""Seconds for the log writer to write its remaining output, as long as it makes progress."""
_WRITER_PATIENCE = {True: 0.5, False: 2.0}
"""Seconds without progress after which the log writer is killed; True: the service ends without waiting for workers,
and the log writer has responded.
"""
_LOOK_AGAIN = 0.1
"""Seconds between two checks of the log writer's progress."""
_REPORT_TIME = 0.5
"""Seconds for the report of lost output on standard error."""


class Ending:
    """Shutdown of the service: its state, deadlines and steps."""

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
        self.before = reaping.children()
        """Children that this process had before it became the guardian: they are not part of the service."""
        self.leaving: Leaving
        self.code: int | None = None
        """Exit code, once the service is to end."""
        self.draining = False
        self._at_once = False
        """True if workers were still running at that time."""
        self._asked_at: float | None = None
        self._takeover_by: float | None = None
        self._end_by: float | None = None
        self._kill_by: float | None = None

    # ------------------------------------------------------------ requests

    def signalled(self, name: str, now: float) -> None:
        """Handle the signal *name*, which asks the service to stop."""
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
        """Let the master run the shutdown, for *deadline* seconds at most (0: no limit)."""
        self._takeover_by = None
        self._end_by = self._loop.now() + deadline if deadline > 0 else None

    def master_lost(self, now: float) -> None:
        """Handle the exit of a master: during a shutdown, the next one has ``TAKEOVER_TIME`` to take over."""
        if self._holdings.stopping and not self.draining:
            self._takeover_by = now + TAKEOVER_TIME

    def finish(self, code: int) -> None:
        """End the service now, with exit code *code*."""
        if self.code is None:
            self.code = code
            self._at_once = bool(self._holdings.by_pid)

    # ------------------------------------------------------------ time

    def deadline(self) -> float | None:
        """Return when to call ``tick`` next, or None."""
        times = [time for time in (self._takeover_by, self._end_by, self._kill_by) if time is not None]
        return min(times, default=None)

    def tick(self, now: float) -> None:
        """Run the actions that are due at *now*."""
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
        """Handle the exit of *worker*. If the guardian drains, end what it left within the rest of the stop timeout."""
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
            others = self._holdings.by_pid
            reaping.signal_group(worker.pid, signal.SIGKILL, leader_lives=not worker.exited, others=others)

    # ------------------------------------------------------------ the end

    def close_down(self, turn: Callable[[float], None], *more: Callable[[], object]) -> None:
        """End all processes, close all sockets and remove all files of the service.

        *turn* runs the loop once, until a monotonic time at most, and reaps children. *more*: steps to run before the
        lock is released.
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
        """Run the loop until *unfinished* returns False, for *seconds* at most.

        *unfinished* is called after each event, and every *step* seconds.
        """
        end = self._loop.now() + seconds
        while unfinished() and (now := self._loop.now()) < end:
            turn(min(end, now + step))

    def _end_writer(self, turn: Callable[[float], None]) -> None:
        """Let the log writer finish. If it makes no progress, kill it and report the output that was lost."""
        patience = _WRITER_PATIENCE[self._at_once and self._logs.answered]
        self._wait(turn, _WRITER_TIME, lambda: self._logs.finish(patience), _LOOK_AGAIN)
        lost, pid = self._logs.lost(), self._logs.pid
        self._logs.kill()
        self._wait(turn, _KILL_TIME, lambda: self._logs.pid is not None)
        if lost:
            why = f"killed the log writer (pid {pid}), which made no progress" if pid else "there was no log writer"
            self._say(turn, f"[cservice] {why}; lost: {lost}\n".encode())

    def _say(self, turn: Callable[[float], None], text: bytes) -> None:
        """Write to standard error in a separate process, since it may block: for ``_REPORT_TIME`` at most."""
        own = os.dup(2)
        try:
            pid = forked_child.fork(own, lambda kept: forked_child.report(kept, text), None, "")
        finally:
            os.close(own)
        self._wait(turn, _REPORT_TIME, lambda: pid in reaping.children())
        if pid in reaping.children():
            os.kill(pid, signal.SIGKILL)

    def _kill_children(self) -> bool:
        """Send SIGKILL to every child but the log writer, and return whether there were any.

        Orphans of these children become children of the guardian.
        """
        left = reaping.children() - self.before - {self._logs.pid or 0}
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return bool(left)

    def _remove_files(self) -> None:
        paths = [self._boot.pid_file] if self._boot.pid_file and _names_us(self._boot.pid_file) else []
        if self._boot.lock_fd is not None:  # removed while it is held: no other process can have locked the file
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
