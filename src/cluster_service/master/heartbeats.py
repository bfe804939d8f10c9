"""Heartbeats of the workers, read from their boards, and the stacks of workers that hang."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from cluster_service.core.engine import recycle
from cluster_service.core.protocol.reports import Dumped, Pulse, Sample
from cluster_service.core.rules.liveness import FRESH_SECONDS
from cluster_service.wire import facts, orders
from cluster_service.wire.worker_protocol import ROW, STACKS_AT, STACKS_SIZE, Row, dump_signal, main_signal, read_row

from . import process_stats
from .event_log import printable
from .process_stats import NotOfWorker, process_of_worker

if TYPE_CHECKING:
    from collections.abc import Callable

    from cluster_service.core.engine.cluster import Cluster
    from cluster_service.core.model.worker import Worker
    from cluster_service.core.protocol.actions import Dump

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
        self._scales = process_stats.Scales()
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
                lines, refusal = await dump(watched.board, worker.pid, watched.uid)
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


class Board:
    """The board of one worker. It owns the descriptor."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def read(self) -> Row:
        """Return the current values."""
        return read_row(os.pread(self._descriptor, ROW, 0), time.monotonic_ns())

    def stacks(self, start: int = 0, size: int = STACKS_SIZE) -> bytes:
        """Return at most *size* bytes of the text that begins *start* bytes into the area for stacks."""
        return os.pread(self._descriptor, min(size, STACKS_SIZE - start), STACKS_AT + start).partition(b"\0")[0]

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self._descriptor)
        self._descriptor = -1  # a later read raises OSError rather than reading a reused descriptor


START_SECONDS = 1.0
"""Maximum seconds until the process begins to write."""
QUIET_SECONDS = 0.2
"""Seconds without further text after which the dump counts as complete: a busy machine writes slowly."""
MAX_SECONDS = 5.0
"""Maximum seconds for one dump."""
ENDS = (b" in <module>\n", b"...\n")
"""Usual ends of a dump: the main thread is dumped last; "..." follows the maximum number of threads or frames."""
STEP_SECONDS = 0.02
MAIN, AGAIN = "Stack (", "Current thread "
"""How a dump introduces the main thread: in a dump of that thread only, and in a dump of all threads."""
MAX_BYTES = 64 * 1024
"""Maximum bytes that are read of each of the two dumps."""
MAX_LINES, MAX_LINE = 1000, 500
OWN = f"{os.sep}cluster_service{os.sep}"


async def dump(board: Board, worker: int, uid: int) -> tuple[tuple[str, ...], str]:
    """Let a process of the worker write its stacks. Return their lines, and a reason to log if there are none.

    *worker*: the pid of the worker's main process. *uid*: the user that the worker was started as.
    """
    pid = board.read().stacks_pid
    if not pid:
        return (), ""
    signals = (main_signal(), dump_signal())  # main thread first: the signal may interrupt what it waits in
    lines: list[str] = []
    try:
        with process_of_worker(pid, worker=worker, uid=uid, handles=signals) as process:
            for number in signals:
                said = await _said(process, number, board)
                if not said:
                    break
                lines += said
    except NotOfWorker as error:
        return (), str(error)
    except OSError:  # the process has exited
        pass
    return tuple(readable(lines)[:MAX_LINES]), ""


async def _said(process: int, number: int, board: Board) -> list[str]:
    """Return what *process* writes to *board* on the signal *number*."""
    before = len(board.stacks())
    signal.pidfd_send_signal(process, number)
    data, quiet, waited = b"", 0.0, 0.0
    while not data.endswith(ENDS) and quiet < (QUIET_SECONDS if data else START_SECONDS) and waited < MAX_SECONDS:
        await asyncio.sleep(STEP_SECONDS)
        waited += STEP_SECONDS
        now = board.stacks(before, MAX_BYTES)
        quiet = quiet + STEP_SECONDS if now == data else 0.0
        data = now
    return [printable(line, MAX_LINE) for line in data.decode("utf-8", "replace").split("\n")]


def readable(lines: list[str]) -> list[str]:
    """Return the lines without threads that run only the runtime's own code, and with equal threads merged.

    The lines of a thread follow the line that names it. The main thread is first and may occur again.
    """
    threads: list[tuple[str, list[str]]] = []
    for line in filter(str.strip, lines):
        if not line.startswith(" "):
            threads.append((line.replace(MAIN, "Main thread ("), []))
        elif threads:
            threads[-1][1].append(line)
    like: dict[tuple[str, ...], list[str]] = {}
    for name, frames in threads:
        again = name.startswith(AGAIN) and frames[-1:] == threads[0][1][-1:]
        if not again and not (frames and all(OWN in frame for frame in frames)):
            like.setdefault(tuple(frames), []).append(name)
    told: list[str] = []
    for same, (first, *others) in like.items():
        told += [f"{first} and {len(others)} more like it" if others else first, *same]
    return told
