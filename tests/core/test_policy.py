"""Back-off, limits, broken slots, recovery and giving up: the policy as a whole service lives it."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from cluster_service.core.model.spec import GIVE_UP_CODE
from cluster_service.core.protocol import event_records
from cluster_service.core.protocol.requests import Restart, Scale
from cluster_service.testing import Program

from .stories import BROKEN, GOOD, HANGS, operation, policy, started, starts, told, world


def gaps(times: list[float]) -> list[float]:
    return [later - earlier for earlier, later in pairwise(times)]


def test_the_first_restart_comes_at_once_and_the_delay_doubles() -> None:
    made = world(1, Program(boot=1.0, dies_at=0.0))
    made.run(27.0)
    wanted = [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
    for gap, delay in zip(gaps(starts(made)), wanted, strict=False):
        assert delay <= gap <= delay * 1.2 + 0.001


def test_a_worker_that_served_long_is_restarted_without_a_grudge() -> None:
    made = started(1)
    for _ in range(20):
        made.run(60.0)
        died = made.clock.now
        made.kernel.kill(made.serving()[0].worker)
        made.run_until(lambda: bool(made.alive()), 10.0)
        assert made.clock.now - died <= 0.121
    assert not told(made, event_records.SlotBroken)


def test_a_slot_that_fails_too_often_is_broken_and_the_others_serve_on() -> None:
    made = started(3, restart=policy(per_minute=4))
    made.programs["app"] = BROKEN
    made.kernel.kill(made.serving("web", 2)[0].worker)
    made.run(59.0)
    (broken,) = told(made, event_records.SlotBroken)
    assert (broken.slot, broken.failures) == (2, 5)
    assert len(made.serving()) == 2
    count = len(starts(made))
    made.run(600.0)
    slow = gaps(starts(made)[count:])
    assert 7 <= len(slow) <= 10
    assert all(60.0 <= gap <= 73.0 for gap in slow)
    assert len(told(made, event_records.SlotBroken)) == 1


def test_a_broken_slot_recovers_by_itself_once_its_program_is_mended() -> None:
    made = started(1, restart=policy(per_minute=2))
    made.programs["app"] = BROKEN
    made.kernel.kill(made.serving()[0].worker)
    made.run(30.0)
    assert told(made, event_records.SlotBroken)
    made.programs["app"] = GOOD
    made.run(75.0)
    assert [event.slot for event in told(made, event_records.SlotRecovered)] == [1]
    assert len(made.serving()) == 1


def test_crashing_slowly_counts_too() -> None:
    made = world(1, replace(GOOD, dies_at=13.0), restart=policy(per_minute=2))
    made.run(100.0)
    assert told(made, event_records.SlotBroken)


@pytest.mark.parametrize("program", [BROKEN, HANGS, replace(GOOD, dies_at=20.0)])
def test_nothing_is_restarted_where_nothing_is_to_be(program: Program) -> None:
    made = world(3, program, restart=policy(auto_restart=False), ready_timeout=30.0)
    made.run(1000.0)
    assert len(starts(made)) == 3
    assert not made.alive()
    assert len(told(made, event_records.SlotBroken)) == 3


def test_where_nothing_is_restarted_an_operator_may() -> None:
    made = started(2, restart=policy(auto_restart=False))
    made.kernel.crash(made.serving()[0].worker)
    made.run(100.0)
    assert len(made.serving()) == 1
    made.request(Restart("all"))
    made.run(10.0)
    assert len(made.serving()) == 2
    made.kernel.crash(made.serving()[0].worker)
    made.run(1.0)
    made.request(Scale("+1"))
    made.run(10.0)
    assert operation(made).state == "done"


# A release of which no worker has ever been ready: one slot tries it for all.


def test_many_workers_that_all_fail_at_import_cost_little() -> None:
    made = world(8, BROKEN)
    made.run(20.0)
    assert len(starts(made)) <= 8 + 9
    assert operation(made).state == "failed"
    assert "ImportError" in (operation(made).reason or "")
    made.run(600.0)
    assert len(told(made, event_records.SlotBroken)) == 8
    made.programs["app"] = GOOD
    made.run(80.0)
    assert len(made.serving()) == 8
    assert len(told(made, event_records.SlotRecovered)) == 8


def test_all_start_as_soon_as_one_of_them_has_been_ready() -> None:
    made = world(8, BROKEN)
    made.run(5.0)
    made.programs["app"] = GOOD
    assert made.run_until(lambda: len(made.serving()) == 8, 6.0 + 1.1)


# Giving up.


def test_a_service_may_give_up_when_every_slot_is_broken() -> None:
    made = world(2, BROKEN, give_up="all-broken", restart=policy(per_minute=3))
    assert made.run_until(lambda: made.ended is not None, 60.0)
    assert made.ended == GIVE_UP_CODE
    assert not made.alive()


def test_it_does_not_give_up_while_one_serves() -> None:
    made = started(2, give_up="all-broken", restart=policy(per_minute=2))
    made.programs["app"] = BROKEN
    made.kernel.kill(made.serving()[0].worker)
    made.run(500.0)
    assert told(made, event_records.SlotBroken)
    assert made.ended is None


def test_it_does_not_give_up_because_one_of_several_failed_to_boot() -> None:
    programs = iter([BROKEN, GOOD, GOOD])
    made = world(3, GOOD, give_up="all-broken", restart=policy(auto_restart=False))
    made = type(made)(made.spec, {"app": lambda _order: next(programs)})
    made.run(60.0)
    assert made.ended is None
    assert len(made.serving()) == 2


def test_by_default_it_never_gives_up() -> None:
    made = world(2, BROKEN, restart=policy(per_minute=0))
    made.run(3600.0)
    assert made.ended is None
    made.programs["app"] = GOOD
    made.run(80.0)
    assert len(made.serving()) == 2
