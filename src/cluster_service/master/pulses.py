"""How the workers do: their boards and the memory that they use, at the pace that the core asks for.

And what one that hangs is doing. Whatever a worker says of itself is bounded here, before the core hears of it.
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from cluster_service.core import recycle
from cluster_service.core.reports import Dumped, Pulse, Sample
from cluster_service.core.watch import FRESH
from cluster_service.wire import facts, orders

from . import gauges, stacks
from .board import Board

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from cluster_service.core.actions import Dump
    from cluster_service.core.cluster import Cluster
    from cluster_service.core.worker import Worker
    from cluster_service.wire.board import Row

MAX_ANSWERS_PER_SECOND = 1_000_000
"""Answers that a worker is believed to have given; no Python server comes near."""


class Watched(NamedTuple):
    """What the master has of a worker to observe it by."""

    board: Board
    uid: int
    """As whom it was started."""


class Pulses:
    """Which worker has which board, and the timer that reads them. *tell* takes the reports, *say* the orders."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        tell: Callable[[Sample | Dumped], None],
        say: Callable[[Any], None],
        cluster: Callable[[], Cluster],
        log: Callable[[str], None],
    ) -> None:
        self._workers: set[int] = set()
        """Those that live."""
        self._watched: dict[int, Watched] = {}
        self._blocked: dict[int, bool] = {}
        """Of workers that stand still: whether they may have to wait until their output is read."""
        self._scales = gauges.Scales()
        self._loop = loop
        self._tell = tell
        self._say = say
        self._cluster = cluster
        self._log = log
        self._timer: asyncio.TimerHandle | None = None
        self._dumps: set[asyncio.Task[None]] = set()

    def learn(self, fact: Any, descriptor: int | None = None) -> None:
        """Take from *fact* which workers there are, and what came to observe them by."""
        if isinstance(fact, facts.Spawned):
            self._workers.add(fact.worker)
        elif isinstance(fact, facts.Monitoring):
            self._forget(fact.worker)
            if descriptor is not None:
                self._watched[fact.worker] = Watched(Board(descriptor), fact.uid)
            elif fact.inode:
                self._log(f"the board of worker {fact.worker} was lost on its way: its hangs are not found")
        elif isinstance(fact, facts.OutputInspected):
            if fact.worker in self._workers:
                self._blocked[fact.worker] = fact.blocked
        elif isinstance(fact, (facts.Exited, facts.SpawnFailed)):
            self._workers.discard(fact.worker)
            self._forget(fact.worker)
        elif isinstance(fact, facts.Snapshot):
            self._workers = {state["worker"] for state in fact.workers if not state["exited"]}
            self._refuse_shared_board()

    def _forget(self, worker: int) -> None:
        self._blocked.pop(worker, None)
        self._scales.forget(worker)
        watched = self._watched.pop(worker, None)
        if watched is not None:
            watched.board.close()

    def _refuse_shared_board(self) -> None:
        """Close the one board that a guardian of an older version made for all workers: each could write all of it."""
        descriptor = os.environ.pop("CSERVICE_BOARD_FD", "")
        if descriptor:
            os.close(int(descriptor))
            self._log(
                "the guardian is of an older version: hangs are not found, answers not counted and "
                "check_path not asked until the service is restarted"
            )

    def _row(self, worker: int) -> Row | None:
        """What the board of *worker* says now; None: it has none."""
        watched = self._watched.get(worker)
        return None if watched is None else watched.board.read()

    def watch(self, pace: float | None) -> None:
        """Look every *pace* seconds from now on, or (None) no more. The next look never comes later for it."""
        if pace is None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            return
        at = self._loop.time() + pace
        if self._timer is not None:
            if self._timer.when() <= at:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(at, self._look)

    def _look(self) -> None:
        self._timer = None
        self.watch(self._cluster().pace())  # first: whatever becomes of this look, there is another
        self._tell(Sample({worker: self._pulse(worker) for worker in self._workers}))

    def _pulse(self, number: int) -> Pulse:
        row = self._row(number)
        worker = self._cluster().workers.get(number)
        memory = self._memory(worker)
        if row is None or worker is None:
            return Pulse(0, memory=memory)
        age = max(0.0, (time.monotonic_ns() - row.beat) / 1e9)
        since = max(1.0, time.monotonic() - self._cluster().sampled_at)
        requests, errors = believed(row, worker.requests, worker.errors, since)
        return Pulse(row.beat, requests, errors, age, memory, row.beat != 0 and self._is_excused(number, age))

    def _is_excused(self, worker: int, age: float) -> bool:
        """Whether *worker* may stand still because its output is not read. The guardian, which has the pipe, answers
        before the next look.
        """
        if age < FRESH:
            self._blocked.pop(worker, None)
            return False
        self._say(orders.InspectOutput(worker))
        return self._blocked.get(worker, False)

    def _memory(self, worker: Worker | None) -> int:
        """Bytes that the worker uses; 0 where that is nobody's business."""
        group = self._cluster().groups.get(worker.group) if worker is not None else None
        if worker is None or group is None or worker.pid is None or not recycle.weighed(group.spec):
            return 0
        return self._scales.memory(worker.number, worker.pid, group.spec.memory)

    def dump(self, order: Dump) -> None:
        """Find out what the worker is doing, and report it."""
        task = self._loop.create_task(self._dump(self._cluster().workers[order.worker], order.why))
        self._dumps.add(task)
        task.add_done_callback(self._dumps.discard)

    async def _dump(self, worker: Worker, why: str) -> None:
        lines: tuple[str, ...] = ()
        refusal = ""
        watched = self._watched.get(worker.number)
        refusal = ""
        if watched is not None and worker.pid is not None:
            with contextlib.suppress(Exception):  # that it hangs is reported in any case
                lines, refusal = await stacks.dump(watched.board, worker.pid, watched.uid)
        if refusal:
            self._log(f"{worker.name} (pid {worker.pid}): no stacks: {refusal}")
        self._tell(Dumped(worker.group, worker.slot, worker.pid or 0, why, lines))


def believed(row: Row, requests: int, errors: int, seconds: float) -> tuple[int, int]:
    """Return the counts of *row* as far as they are believed, *seconds* after *requests* and *errors* were.

    They never fall, never grow faster than ``MAX_ANSWERS_PER_SECOND``, and errors never faster than requests: what is
    not believed yet may be at a later look.
    """
    more = max(0, min(row.requests - requests, int(MAX_ANSWERS_PER_SECOND * seconds)))
    return requests + more, errors + max(0, min(row.errors - errors, more))
