"""What is believed of what workers write about themselves, and that each can only affect itself."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster_service.core.model.worker import Worker
from cluster_service.core.protocol.reports import Dumped, Sample
from cluster_service.core.rules.error_rates import ResponseCounts, is_worse
from cluster_service.master import process_stats
from cluster_service.master.heartbeats import MAX_ANSWERS_PER_SECOND, Pulses, believed
from cluster_service.wire import facts, orders, worker_protocol

CELL = st.integers(0, 2**64 - 1)


@given(st.binary(min_size=worker_protocol.ROW, max_size=worker_protocol.ROW), CELL)
def test_any_bytes_are_a_row_whose_values_are_in_their_range(data: bytes, now: int) -> None:
    row = worker_protocol.read_row(data, now)
    assert 0 <= row.beat <= now
    assert 0 <= row.errors <= row.requests
    assert 0 <= row.stacks_pid < worker_protocol.MAX_PID


@given(st.lists(st.tuples(CELL, CELL, st.floats(0.0, 1e4)), max_size=8))
def test_counts_never_fall_nor_leap_whatever_is_written(written: list[tuple[int, int, float]]) -> None:
    requests = errors = all_seconds = 0
    for said, wrong, seconds in written:
        before = (requests, errors)
        requests, errors = believed(worker_protocol.Row(0, said, wrong), requests, errors, seconds)
        assert 0 <= errors - before[1] <= requests - before[0]
        assert requests - before[0] <= MAX_ANSWERS_PER_SECOND * seconds
        all_seconds += seconds  # type: ignore[assignment]
    assert is_worse(ResponseCounts(requests, errors), ResponseCounts(requests, errors)) is False
    assert is_worse(ResponseCounts(requests, 0), ResponseCounts(requests, errors)) is False


def test_honest_counts_are_believed_as_they_are() -> None:
    assert believed(worker_protocol.Row(0, 120, 7), 100, 5, 1.0) == (120, 7)
    assert believed(worker_protocol.Row(0, 120, 8), 120, 5, 1.0) == (120, 5)  # read between the two cells
    assert believed(worker_protocol.Row(0, 125, 8), 120, 5, 1.0) == (125, 8)


class Service:
    """Pulses of two workers, whose boards the test writes."""

    def __init__(self) -> None:
        workers = {number: Worker(number, "web", number, 1, "start", 0.0, pid=1) for number in (1, 2)}
        self.cluster = SimpleNamespace(workers=workers, groups={}, sample_interval=lambda: None, sampled_at=0.0)
        self.reports: list[Sample | Dumped] = []
        self.orders: list[Any] = []
        self.logged: list[str] = []
        self.memory = {number: os.memfd_create("board") for number in workers}
        asked = cast("Any", lambda: self.cluster)
        loop = cast("Any", SimpleNamespace(time=lambda: 0.0))
        self.pulses = Pulses(loop, self.reports.append, self.orders.append, asked, self.logged.append)
        for number, memory in self.memory.items():
            os.ftruncate(memory, worker_protocol.SIZE)
            self.pulses.learn(facts.Spawned(number, 1))
            inode = os.fstat(memory).st_ino
            self.pulses.learn(facts.Monitoring(number, 0, descriptor=True, inode=inode), os.dup(memory))

    def write(self, worker: int, *cells: int) -> None:
        os.pwrite(self.memory[worker], b"".join(cell.to_bytes(8, sys.byteorder) for cell in cells), 0)

    def look(self) -> Any:
        self.pulses._look()
        return cast("Sample", self.reports[-1]).pulses

    def close(self) -> None:
        for number, memory in self.memory.items():
            self.pulses.learn(facts.Exited(number, 0))
            os.close(memory)


@pytest.fixture
def service() -> Any:
    made = Service()
    yield made
    made.close()


def test_a_worker_can_only_affect_its_own_pulse(service: Service) -> None:
    service.write(1, *[2**64 - 1] * worker_protocol.CELLS)
    found = service.look()
    assert found[2] == (0, 0, 0, found[2].age, 0, False)
    assert found[1].age == pytest.approx(0, abs=5)
    assert found[1].errors <= found[1].requests <= MAX_ANSWERS_PER_SECOND * (10**9)


def test_the_guardian_is_asked_whether_one_that_stands_still_waits_for_its_output(service: Service) -> None:
    service.write(1, 1)
    assert not service.look()[1].excused
    assert service.orders == [orders.InspectOutput(1)]
    service.pulses.learn(facts.OutputInspected(1, blocked=True))
    assert service.look()[1].excused
    service.write(1, 2**63)  # it turns
    assert not service.look()[1].excused
    service.write(1, 1)
    assert not service.look()[1].excused, "what was true then need not be now"


def test_boards_of_workers_that_are_gone_are_closed(service: Service) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for number in range(3, 50):
        service.pulses.learn(facts.Spawned(number, 1))
        for _ in range(2):  # a new master may receive it twice
            service.pulses.learn(facts.Monitoring(number, 0, descriptor=True, inode=7), os.dup(service.memory[1]))
        service.pulses.learn(facts.Exited(number, 0) if number % 2 else facts.SpawnFailed(number, ""))
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_board_that_is_lost_is_logged(service: Service) -> None:
    service.pulses.learn(facts.Monitoring(2, 0, inode=7), None)
    assert "board of worker 2 was lost" in service.logged[0]
    assert service.look()[2].age is None


def test_the_board_of_an_older_guardian_is_refused(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = os.memfd_create("shared")
    monkeypatch.setenv("CSERVICE_BOARD_FD", str(shared))
    state = {"worker": 1, "pid": 1, "row": 3, "exited": False}
    service.pulses.learn(facts.Snapshot(1, 1, 0.0, [state], [], "", 1, 2))
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(shared)
    assert "older version" in service.logged[0]
    assert facts.WorkerState.from_json(state).worker == 1


def test_why_there_are_no_stacks_is_logged(service: Service) -> None:
    async def run() -> None:
        service.pulses._loop = asyncio.get_running_loop()
        service.pulses.dump(cast("Any", SimpleNamespace(worker=1, why="hangs")))
        await asyncio.gather(*service.pulses._dumps)

    service.write(1, 1, 0, 0, os.getpid())
    asyncio.run(run())
    assert service.reports == [Dumped("web", 1, 1, "hangs")]
    assert "no stacks: process" in service.logged[0]


def test_a_worker_whose_memory_map_is_held_is_weighed_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    reached, held = threading.Event(), threading.Event()

    def stuck(_pid: int) -> int:
        reached.set()
        held.wait(20)
        return 5

    scales = process_stats.Scales()
    pid = os.getpid()
    assert scales.memory(1, pid, "rss") > 5
    monkeypatch.setattr(process_stats, "_proportional", stuck)
    assert scales.memory(1, pid, "pss") == 0  # not known yet
    assert reached.wait(20)
    assert scales.memory(1, pid, "pss") > 5
    held.set()
    scales.forget(1)
