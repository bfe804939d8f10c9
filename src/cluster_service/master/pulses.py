"""Observation of the workers: their heartbeats and memory at the interval that the core requests, and stack dumps.

Values that a worker reports about itself are bounded here, before the core receives them.
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from cluster_service.core.engine import recycle
from cluster_service.core.protocol.reports import Dumped, Pulse, Sample
from cluster_service.core.rules.liveness import FRESH_SECONDS
from cluster_service.wire import facts, orders

from . import gauges, stacks
from .board import Board

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from cluster_service.core.engine.cluster import Cluster
    from cluster_service.core.model.worker import Worker
    from cluster_service.core.protocol.actions import Dump
    from cluster_service.wire.board import Row

MAX_ANSWERS_PER_SECOND = 1_000_000
"""Maximum rate of responses accepted from a worker's counters; no Python server comes close."""


class Watched(NamedTuple):
    """What the master needs to observe one worker."""

    board: Board
    uid: int
    """User that the worker was started as."""


class Pulses:
    """The boards of the workers and the timer that reads them. *tell* receives the reports, *say* the orders."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        tell: Callable[[Sample | Dumped], None],
        say: Callable[[Any], None],
        cluster: Callable[[], Cluster],
        log: Callable[[str], None],
    ) -> None:
        self._workers: set[int] = set()
        """Numbers of the living workers."""
        self._watched: dict[int, Watched] = {}
        self._blocked: dict[int, bool] = {}
        """For workers whose heartbeat is late: True if they may be blocked because their output is not read."""
        self._scales = gauges.Scales()
        self._loop = loop
        self._tell = tell
        self._say = say
        self._cluster = cluster
        self._log = log
        self._timer: asyncio.TimerHandle | None = None
        self._dumps: set[asyncio.Task[None]] = set()

    def learn(self, fact: Any, descriptor: int | None = None) -> None:
        """Update the workers and their boards from *fact*."""
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
        """Close the single board that older guardians created for all workers: any worker could overwrite all of it."""
        descriptor = os.environ.pop("CSERVICE_BOARD_FD", "")
        if descriptor:
            os.close(int(descriptor))
            self._log(
                "the guardian is of an older version: hangs are not found, answers not counted and "
                "check_path not asked until the service is restarted"
            )

    def _row(self, worker: int) -> Row | None:
        """Return the current contents of the board of *worker*; None if it has none."""
        watched = self._watched.get(worker)
        return None if watched is None else watched.board.read()

    def watch(self, pace: float | None) -> None:
        """Sample every *pace* seconds from now on, or stop if None. This never postpones the next sample."""
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
        self.watch(self._cluster().sample_interval())  # first, so that a failure below does not stop the sampling
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
        """Return True if *worker* may be blocked because its output is not read. The guardian, which holds the pipe,
        answers before the next sample.
        """
        if age < FRESH_SECONDS:
            self._blocked.pop(worker, None)
            return False
        self._say(orders.InspectOutput(worker))
        return self._blocked.get(worker, False)

    def _memory(self, worker: Worker | None) -> int:
        """Return the bytes that the worker uses; 0 if no setting depends on them."""
        group = self._cluster().groups.get(worker.group) if worker is not None else None
        if worker is None or group is None or worker.pid is None or not recycle.measures_memory(group.spec):
            return 0
        return self._scales.memory(worker.number, worker.pid, group.spec.memory)

    def dump(self, order: Dump) -> None:
        """Dump the stacks of the worker and report them."""
        task = self._loop.create_task(self._dump(self._cluster().workers[order.worker], order.why))
        self._dumps.add(task)
        task.add_done_callback(self._dumps.discard)

    async def _dump(self, worker: Worker, why: str) -> None:
        lines: tuple[str, ...] = ()
        refusal = ""
        watched = self._watched.get(worker.number)
        refusal = ""
        if watched is not None and worker.pid is not None:
            with contextlib.suppress(Exception):  # the hang is reported in any case
                lines, refusal = await stacks.dump(watched.board, worker.pid, watched.uid)
        if refusal:
            self._log(f"{worker.name} (pid {worker.pid}): no stacks: {refusal}")
        self._tell(Dumped(worker.group, worker.slot, worker.pid or 0, why, lines))


def believed(row: Row, requests: int, errors: int, seconds: float) -> tuple[int, int]:
    """Return the counts of *row* as far as they are plausible *seconds* after *requests* and *errors* were accepted.

    They never decrease, never grow faster than ``MAX_ANSWERS_PER_SECOND``, and errors never grow faster than requests.
    A count that is not accepted now may be at a later sample.
    """
    more = max(0, min(row.requests - requests, int(MAX_ANSWERS_PER_SECOND * seconds)))
    return requests + more, errors + max(0, min(row.errors - errors, more))
