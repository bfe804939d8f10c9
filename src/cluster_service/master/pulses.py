"""How the workers do: their rows of the board and the memory that they use, at the pace that the core asks for.

And what one that hangs is doing.
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING, Any

from cluster_service.core import recycle
from cluster_service.core.reports import Dumped, Pulse, Sample
from cluster_service.core.watch import FRESH
from cluster_service.wire import facts

from . import gauges, stacks

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from cluster_service.core.actions import Dump
    from cluster_service.core.cluster import Cluster
    from cluster_service.core.worker import Worker
    from cluster_service.wire.board import Row

    from .board import Board


class Pulses:
    """Which worker has which row, and the timer that reads them. *tell* takes the reports."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        tell: Callable[[Sample | Dumped], None],
        cluster: Callable[[], Cluster],
    ) -> None:
        descriptor = os.environ.pop("CSERVICE_BOARD_FD", "")
        self._descriptor = int(descriptor) if descriptor else -1
        if descriptor:
            os.set_inheritable(self._descriptor, False)  # noqa: FBT003 - positional only
        self._board: Board | None = None
        self._rows: dict[int, int] = {}
        self._loop = loop
        self._tell = tell
        self._cluster = cluster
        self._timer: asyncio.TimerHandle | None = None
        self._dumps: set[asyncio.Task[None]] = set()

    def learn(self, fact: Any) -> None:
        """Take from *fact* who has which row."""
        if isinstance(fact, facts.Spawned):
            self._rows[fact.worker] = fact.row
        elif isinstance(fact, facts.Exited):
            self._rows.pop(fact.worker, None)
        elif isinstance(fact, facts.Snapshot):
            self._rows = {state["worker"]: state["row"] for state in fact.workers if not state["exited"]}

    def _row(self, worker: int) -> Row | None:
        """What the row of *worker* says now; None: it has none."""
        number = self._rows.get(worker, -1)
        if number < 0 or self._descriptor < 0:
            return None
        if self._board is None:
            from .board import Board  # noqa: PLC0415 - only once somebody is watched

            self._board = Board(self._descriptor)
        return self._board.read(number)

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
        self._tell(Sample({worker: self._pulse(worker) for worker in self._rows}))

    def _pulse(self, worker: int) -> Pulse:
        row = self._row(worker)
        memory = self._memory(worker)
        if row is None:
            return Pulse(0, memory=memory)
        age = max(0.0, (time.monotonic_ns() - row.beat) / 1e9)
        excused = row.beat != 0 and age >= FRESH and gauges.waits_for_its_output(row.stacks_pid)
        return Pulse(row.beat, row.requests, row.errors, age, memory, excused)

    def _memory(self, number: int) -> int:
        """Bytes that the worker uses; 0 where that is nobody's business."""
        cluster = self._cluster()
        worker = cluster.workers.get(number)
        group = cluster.groups.get(worker.group) if worker is not None else None
        if worker is None or group is None or worker.pid is None or not recycle.weighed(group.spec):
            return 0
        return gauges.memory(worker.pid, group.spec.memory)

    def dump(self, order: Dump) -> None:
        """Find out what the worker is doing, and report it."""
        task = self._loop.create_task(self._dump(self._cluster().workers[order.worker], order.why))
        self._dumps.add(task)
        task.add_done_callback(self._dumps.discard)

    async def _dump(self, worker: Worker, why: str) -> None:
        lines: tuple[str, ...] = ()
        with contextlib.suppress(Exception):  # that it hangs is told in any case
            lines = await stacks.dump(self._row(worker.number))
        self._tell(Dumped(worker.group, worker.slot, worker.pid or 0, why, lines))
