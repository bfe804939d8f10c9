"""Replacing workers by arithmetic over counts."""

from __future__ import annotations

import pytest

from cluster_service.core.model.worker import TRANSITIONS, Worker
from cluster_service.core.rules.replacement import count_replacing, plan_slot, surge


@pytest.mark.parametrize(
    ("count", "more"),
    [(0, 1), (1, 1), (2, 1), (3, 1), (4, 1), (5, 1), (6, 1), (7, 2), (8, 2), (9, 2), (10, 3), (100, 33)],
)
def test_a_third_at_a_time_and_at_least_one(count: int, more: int) -> None:
    assert surge(count) == more


def test_another_ratio() -> None:
    assert [surge(8, ratio) for ratio in (0.0, 0.1, 0.5, 1.0)] == [1, 1, 4, 8]


def worker(number: int, generation: int, state: str, slot: int = 1) -> Worker:
    return Worker(number, "web", slot, generation, "start", 0.0, state=state)


OLD, NEW = 1, 2


@pytest.mark.parametrize(
    ("workers", "wants", "stopped"),
    [
        # (generation, state) of each worker, oldest first; the wanted generation is NEW
        ([], "start", []),
        ([(NEW, "ordered")], "nothing", []),
        ([(NEW, "starting")], "nothing", []),
        ([(NEW, "serving")], "nothing", []),
        ([(OLD, "serving")], "replace", []),
        ([(OLD, "starting")], "replace", []),
        ([(OLD, "ordered")], "replace", []),
        ([(OLD, "serving"), (NEW, "ordered")], "nothing", []),
        ([(OLD, "serving"), (NEW, "starting")], "nothing", []),
        ([(OLD, "serving"), (NEW, "serving")], "nothing", [1]),
        ([(OLD, "starting"), (NEW, "serving")], "nothing", [1]),
        ([(OLD, "draining"), (NEW, "serving")], "nothing", []),
        ([(OLD, "draining")], "start", []),
        ([(OLD, "killing"), (OLD, "stopping")], "start", []),
        ([(NEW, "serving"), (NEW, "serving")], "nothing", [2]),
        ([(NEW, "gone")], "start", []),
        # several stale ones: one that serves is kept, else the oldest, and the others make room first
        ([(OLD, "serving"), (3, "starting")], "nothing", [2]),
        ([(OLD, "starting"), (3, "starting")], "nothing", [2]),
        ([(OLD, "starting"), (3, "serving")], "nothing", [1]),
        ([(OLD, "serving"), (3, "ordered")], "nothing", [2]),
        ([(OLD, "serving"), (3, "starting"), (NEW, "starting")], "nothing", [2]),
        ([(OLD, "serving"), (3, "starting"), (NEW, "serving")], "nothing", [1, 2]),
    ],
)
def test_what_a_slot_needs(workers: list[tuple[int, str]], wants: str, stopped: list[int]) -> None:
    plan = plan_slot(NEW, [worker(number, *each) for number, each in enumerate(workers, 1)])
    assert (plan.wants, sorted(each.number for each in plan.stop)) == (wants, stopped)


@pytest.mark.parametrize("stale", sorted(TRANSITIONS))
@pytest.mark.parametrize("coming", sorted(TRANSITIONS))
def test_nothing_that_serves_is_stopped_before_its_successor_serves(stale: str, coming: str) -> None:
    plan = plan_slot(NEW, [worker(1, OLD, stale), worker(2, NEW, coming)])
    if any(each.serving for each in plan.stop):
        assert coming == "serving"
        assert all(each.number == 1 for each in plan.stop)
    assert all(each.staying for each in plan.stop)


@pytest.mark.parametrize(
    ("workers", "count"),
    [
        # (slot, generation, state); every slot wants NEW
        ([], 0),
        ([(1, OLD, "serving"), (2, OLD, "serving")], 0),
        ([(1, OLD, "serving"), (1, NEW, "ordered"), (2, OLD, "serving")], 1),
        ([(1, OLD, "serving"), (1, NEW, "starting"), (2, OLD, "serving"), (2, NEW, "serving")], 2),
        ([(1, OLD, "draining"), (1, NEW, "serving")], 0),
        ([(1, NEW, "starting")], 0),
        ([(1, OLD, "serving"), (1, OLD, "ordered")], 1),  # a successor that is stale before it is there
        ([(9, OLD, "serving"), (9, NEW, "starting")], 0),  # not a slot any more
    ],
)
def test_how_many_are_in_replacement(workers: list[tuple[int, int, str]], count: int) -> None:
    made = [worker(number, generation, state, slot) for number, (slot, generation, state) in enumerate(workers)]
    assert count_replacing({1, 2}, made) == count
