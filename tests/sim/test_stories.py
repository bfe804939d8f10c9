"""Narrow windows, each told on purpose: Hypothesis would need long to meet them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cluster_service.core.model.spec import GroupSpec, Release, RestartPolicy, Spec
from cluster_service.core.protocol import event_records
from cluster_service.core.protocol.requests import Restart, Shutdown
from cluster_service.testing import Program

from .promises import CheckedWorld

GOOD = Program(boot=0.5, stop_takes=0.3)


def world(count: int, program: Program = GOOD, **more: object) -> CheckedWorld:
    group = GroupSpec("web", count, Release("script", "app"), ready_timeout=30.0, stop_timeout=20.0)
    return CheckedWorld(Spec("default", (replace(group, **more),)), {"app": program})  # type: ignore[arg-type]


@pytest.mark.parametrize("count", [1, 3])
def test_a_successor_that_dies_before_the_old_one_was_told_does_not_take_it_along(count: int) -> None:
    made = world(count)
    made.run(5.0)
    for after in range(1, 40):
        made.request(Restart("all"))
        made.run(0.49)
        newest = max(process.worker for process in made.alive())
        made.kill_master(after, back_in=2.0)  # in the turns that follow upon "it is ready"
        made.run(0.02)
        if newest in made.kernel.processes:
            made.kernel.kill(newest)
        made.check()
        made.run(1.0)
        made.check()
        made.stop_faults()
        made.run(60.0)
        made.check()
        assert len(made.serving()) == count, made.story()


@pytest.mark.parametrize("away", [0.2, 0.7, 5.0, 29.0])
def test_who_was_ready_in_time_is_not_ended_because_the_news_was_late(away: float) -> None:
    made = world(3, Program(boot=29.9, ready="told", not_yet=True))
    made.run(29.8)
    made.hang_master(away)  # three facts wait for it, and the time is over when it reads the first
    made.run(60.0)
    made.check()
    assert not [event for event in made.events if isinstance(event, event_records.WorkerStop)], made.story()
    assert len(made.serving()) == 3


@pytest.mark.parametrize("away", [0.5, 15.0, 100.0])
@pytest.mark.parametrize("after", range(1, 12))
def test_a_stop_that_was_decided_and_not_sent_still_announces_the_whole_time(after: int, away: float) -> None:
    made = world(2, replace(GOOD, stop_takes=19.0))
    made.run(5.0)
    made.kill_master(after, back_in=away)
    made.request(Shutdown("web"))
    made.run(200.0)
    made.check()
    assert not made.alive()
    assert not [event for event in made.events if isinstance(event, event_records.WorkerKill)], made.story()


def test_a_fork_whose_failure_nobody_heard_of_counts() -> None:
    made = world(1, restart=RestartPolicy(per_minute=3))
    made.run(5.0)
    made.kernel.refuse_forks = 100
    made.kernel.kill(made.alive()[0].worker)
    for _ in range(30):
        made.kill_master(2)  # once it has noted and sent a Spawn, before it notes the answer
        made.run(0.3)
        made.stop_faults()
        made.check()
    made.stop_faults()
    made.run(20.0)
    made.check()
    assert [event for event in made.events if isinstance(event, event_records.SlotBroken)]


def test_a_successor_that_is_not_wanted_any_more_counts_as_one() -> None:
    made = world(3, restart=RestartPolicy(auto_restart=False), max_uptime=150.0)
    made.run(5.0)
    made.hang_master(0.2)
    made.kernel.kill(made.alive()[1].worker)
    made.suspend(200.0)
    made.kernel.signal("HUP")  # heard before the process of the recycled worker's successor is
    made.run(30.0)
    made.check()
    assert len(made.serving()) == 3
