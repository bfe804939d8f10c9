"""Recycling, on a simulated machine: by each limit, successor first, and few at a time."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from cluster_service.core.engine.recycle import RULES
from cluster_service.core.model.spec import Release
from cluster_service.core.model.worker import Worker
from cluster_service.core.protocol import event_records
from cluster_service.core.protocol.reports import Due
from cluster_service.core.protocol.requests import Restart, Upgrade

from .stories import BROKEN, GOOD, generations, operation, policy, running, started, told

if TYPE_CHECKING:
    from cluster_service.testing import Program, World

MIB = 1 << 20

LEAKS = replace(GOOD, leaks=10.0 * MIB)

LIMITS: dict[str, tuple[Program, dict[str, Any], str]] = {
    "memory": (LEAKS, {"max_memory": 130 * MIB}, "MiB, more than 130 MiB"),
    "growth": (LEAKS, {"max_growth": 100 * MIB}, "since it began to serve, more than 100 MiB"),
    "requests": (GOOD, {"max_requests": 200}, "requests of at most 200"),
    "uptime": (GOOD, {"max_uptime": 10.0}, "it has served for nearly 10 s"),
}


def never_fewer(made: World, seconds: float, count: int) -> None:
    """Let time pass; at no moment do fewer than *count* serve, or more than the budget allows."""
    until = made.clock.now + seconds
    while made.clock.now < until:
        made.run(0.1)
        assert len(made.serving()) >= count, made.story()
        assert len(made.alive()) <= count + max(1, int(count * 0.33)) + 1, made.story()


@pytest.mark.parametrize("count", [1, 2, 8])
@pytest.mark.parametrize("limit", LIMITS)
def test_each_limit_replaces_workers_ready_first(limit: str, count: int) -> None:
    program, settings, why = LIMITS[limit]
    made = started(count, program, **settings)
    first = {process.worker for process in made.alive()}
    never_fewer(made, 60.0, count)
    recycled = told(made, event_records.WorkerRecycle)
    assert why in recycled[0].detail
    assert not first & {process.worker for process in made.alive()}
    assert {event.reason for event in told(made, event_records.WorkerExit)} == {"recycle"}
    assert {event.reason for event in told(made, event_records.WorkerStart)} == {"recycle"}
    assert generations(made) == [1] * count
    assert made.cluster is not None
    assert all(slot.restarts == 0 for slot in made.cluster.groups["web"].slots.values())


def test_workers_that_began_together_are_not_due_together() -> None:
    made = started(8, GOOD, max_uptime=1000.0)
    made.run(1100.0)
    at = [each.at for each in made.history if isinstance(each.what, event_records.WorkerRecycle)][:8]
    assert max(at) - min(at) > 30.0
    assert min(at) >= 1000.0 + 900.0  # the clock of the world begins at 1000


def test_at_a_time_of_day_all_are_due_and_few_are_replaced_at_once() -> None:
    made = started(6, GOOD)
    made.report(Due("web", "it is 04:00"))
    assert len(told(made, event_records.WorkerRecycle)) == 6
    never_fewer(made, 10.0, 6)
    assert len(told(made, event_records.WorkerExit)) == 6


def test_a_successor_that_fails_takes_nothing_away() -> None:
    made = started(2, GOOD)
    made.programs["app"] = BROKEN
    made.report(Due("web", "it is 04:00"))
    never_fewer(made, 100.0, 2)
    made.programs["app"] = GOOD
    assert made.run_until(lambda: len(told(made, event_records.WorkerExit)) > 2 and len(made.alive()) == 2, 200.0)


def test_one_that_is_alone_is_replaced_after_it_has_ended() -> None:
    made = started(1, GOOD, singleton=True)
    made.report(Due("web", "it is 04:00"))
    most = 0
    while not told(made, event_records.WorkerReady):
        made.run(0.1)
        most = max(most, len(made.alive()))
    assert most == 1


def test_a_restart_meanwhile_shares_the_budget_and_does_the_work_once() -> None:
    made = started(6, GOOD)
    made.report(Due("web", "it is 04:00"))
    made.request(Restart("all"))
    never_fewer(made, 30.0, 6)
    assert not running(made)
    assert generations(made) == [2] * 6


def test_a_restart_that_fails_leaves_them_due_for_the_reason_that_they_were() -> None:
    made = started(2, GOOD, restart=policy(auto_restart=False))
    made.kernel.refuse_forks = 3
    made.report(Due("web", "it is 04:00"))
    made.request(Restart("all"))
    never_fewer(made, 30.0, 2)
    assert operation(made).state == "failed"
    assert {event.reason for event in told(made, event_records.WorkerStart)} == {"recycle"}


def test_a_release_on_trial_is_not_recycled() -> None:
    made = started(2, GOOD, max_memory=100 * MIB)
    made.programs["v2"] = LEAKS
    made.request(Upgrade("all", Release("script", "v2"), monitor=60.0))
    made.run(50.0)
    assert not told(made, event_records.WorkerRecycle)
    never_fewer(made, 120.0, 2)
    assert told(made, event_records.WorkerRecycle)


def test_the_mark_outlives_the_master() -> None:
    made = started(2, replace(GOOD, boot=5.0))
    made.report(Due("web", "it is 04:00"))
    made.kill_master(back_in=3.0)
    never_fewer(made, 60.0, 2)
    assert len(told(made, event_records.WorkerExit)) == 2


def test_without_limits_nobody_is_due() -> None:
    made = started(1)
    assert made.cluster is not None
    worker = Worker(1, "web", 1, 1, "start", 0.0, ready_at=0.0, memory=1 << 60, requests=1 << 60)
    assert [rule(made.cluster.groups["web"].spec, worker, 1e9) for rule in RULES] == [""] * len(RULES)


def test_a_worker_that_is_wanted_again_after_its_time_is_due_at_once() -> None:
    made = started(1, max_uptime=60.0)
    (old,) = made.serving()
    made.programs["app"] = replace(GOOD, boot=1e9, dies_at=90.0)
    made.request(Restart("all"))
    assert made.run_until(lambda: not running(made), 200.0)
    made.run(0.0)
    assert made.cluster is not None
    assert made.cluster.workers[old.worker].retire == "recycle"
