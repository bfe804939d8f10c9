"""The workers' rows of the board, read at a steady pace while the core watches somebody."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from cluster_service.core.reports import Pulse, Sample
from cluster_service.core.watch import PACE
from cluster_service.wire import facts

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from .board import Board


class Pulses:
    """Which worker has which row, and the timer that reads them. *tell* takes the samples."""

    def __init__(self, loop: asyncio.AbstractEventLoop, tell: Callable[[Sample], None]) -> None:
        descriptor = os.environ.pop("CSERVICE_BOARD_FD", "")
        self._descriptor = int(descriptor) if descriptor else -1
        if descriptor:
            os.set_inheritable(self._descriptor, False)  # noqa: FBT003 - positional only
        self._board: Board | None = None
        self._rows: dict[int, int] = {}
        self._loop = loop
        self._tell = tell
        self._timer: asyncio.TimerHandle | None = None

    def learn(self, fact: Any) -> None:
        """Take from *fact* who has which row."""
        if isinstance(fact, facts.Spawned):
            self._rows[fact.worker] = fact.row
        elif isinstance(fact, facts.Exited):
            self._rows.pop(fact.worker, None)
        elif isinstance(fact, facts.Snapshot):
            self._rows = {state["worker"]: state["row"] for state in fact.workers if not state["exited"]}

    def watch(self, wanted: bool) -> None:  # noqa: FBT001 - the core's own answer
        """Read at a steady pace from now on, or no more."""
        if not wanted and self._timer is not None:
            self._timer.cancel()
            self._timer = None
        elif wanted and self._timer is None and self._descriptor >= 0:
            self._timer = self._loop.call_later(PACE, self._read)

    def _read(self) -> None:
        self._timer = None
        if self._board is None:
            from .board import Board  # noqa: PLC0415 - only once somebody is watched

            self._board = Board(self._descriptor)
        pulses = {}
        for worker, row in self._rows.items():
            if row >= 0:
                read = self._board.read(row)
                pulses[worker] = Pulse(read.beat, read.requests, read.errors)
        self._tell(Sample(pulses))
