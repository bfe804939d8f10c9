"""Scale, shut down, add groups, end: and what is refused, with nothing changed."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from cluster_service.core.model.spec import GroupSpec, Release
from cluster_service.core.protocol import event_records
from cluster_service.core.protocol.requests import ExitNow, Rejected, Restart, Scale, Shutdown, StartGroup
from cluster_service.testing import Program, World

from .stories import GOOD, operation, policy, running, slots, started, told


def group(name: str, count: int = 2, **more: Any) -> GroupSpec:
    return GroupSpec(name, count, Release("command", name), **more)


def two_groups() -> World:
    made = started(3)
    made.programs["jobs"] = Program(boot=0.5, ready="notify", addresses=())
    made.request(StartGroup(group("jobs")))
    made.run(10.0)
    assert operation(made).state == "done"
    made.events.clear()
    return made


# Scaling.


@pytest.mark.parametrize(
    ("before", "change", "after"),
    [(2, "4", 4), (2, "+1", 3), (2, "-1", 1), (2, "0", 0), (2, "-2", 0), (2, "2", 2), (0, "+3", 3), (3, "+0", 3)],
)
def test_scaling(before: int, change: str, after: int) -> None:
    made = started(before)
    made.request(Scale(change))
    made.run(10.0)
    assert slots(made) == list(range(1, after + 1))
    assert operation(made).state == "done"
    assert {event.reason for event in told(made, event_records.WorkerStart)} <= {"scale"}
    assert {event.reason for event in told(made, event_records.WorkerExit)} <= {"scale"}


def test_the_lowest_free_slots_are_filled() -> None:
    made = started(4)
    made.request(Shutdown("web.2"))
    made.run(5.0)
    assert slots(made) == [1, 3, 4]
    made.request(Scale("+2"))
    made.run(5.0)
    assert slots(made) == [1, 2, 3, 4, 5]


def test_scaling_up_and_down_at_once_ends_at_the_last_wish() -> None:
    made = started(2, replace(GOOD, stop_takes=5.0))
    for change in ("6", "1", "4"):
        made.request(Scale(change))
    made.run(30.0)
    assert slots(made) == [1, 2, 3, 4]
    assert not running(made)
    assert len(made.alive()) == 4


def test_a_dead_worker_of_a_dropped_slot_is_not_replaced() -> None:
    made = started(2)
    made.kernel.crash(made.serving("web", 2)[0].worker)
    made.request(Scale("1"))
    made.run(30.0)
    assert slots(made) == [1]
    assert not told(made, event_records.WorkerStart)


# Shutting down.


@pytest.mark.parametrize(
    ("selector", "left"),
    [
        ("web.2", {("web", 1), ("web", 3), ("jobs", 1), ("jobs", 2)}),
        ("3", {("web", 1), ("web", 2), ("jobs", 1), ("jobs", 2)}),
        ("web", {("jobs", 1), ("jobs", 2)}),
        ("jobs", {("web", 1), ("web", 2), ("web", 3)}),
    ],
)
def test_shutting_some_down(selector: str, left: set[tuple[str, int]]) -> None:
    made = two_groups()
    made.request(Shutdown(selector))
    made.run(100.0)
    assert {(each.spawn.meta["group"], each.spawn.meta["slot"]) for each in made.alive()} == left
    assert made.ended is None
    assert operation(made).state == "done"
    assert {event.reason for event in told(made, event_records.WorkerExit)} == {"shutdown"}
    assert not told(made, event_records.WorkerStart)


def test_shutting_all_down_ends_the_service() -> None:
    made = two_groups()
    made.request(Shutdown("all"))
    assert made.run_until(lambda: made.ended is not None, 10.0)
    assert (made.ended, made.alive(), made.kernel.held) == (0, [], {})


def test_a_shutdown_cancels_what_is_under_way() -> None:
    made = started(4, replace(GOOD, boot=5.0))
    made.request(Restart("all"))
    restart = operation(made)
    made.request(Shutdown("all"))
    assert (restart.state, restart.reason) == ("cancelled", "the service is shutting down")
    assert made.run_until(lambda: made.ended is not None, 30.0)


@pytest.mark.parametrize("when", [0.0, 0.2, 0.6, 3.0])
def test_a_shutdown_at_any_time_of_the_start(when: float) -> None:
    made = World.of(3, replace(GOOD, boot=1.0))
    made.run(when)
    made.request(Shutdown("all"))
    assert made.run_until(lambda: made.ended is not None, 30.0)
    assert not made.alive()


def test_exit_now_is_now() -> None:
    made = started(3, replace(GOOD, stop_takes=None))
    made.request(ExitNow())
    assert (made.ended, made.alive()) == (0, [])


@pytest.mark.parametrize("signal", ["TERM", "INT"])
def test_a_signal_shuts_down(signal: str) -> None:
    made = started(2, replace(GOOD, stop_takes=1.0))
    made.signal(signal)
    made.signal(signal)  # the second is the guardian's own affair
    assert made.run_until(lambda: made.ended is not None, 10.0)
    assert made.ended == 0
    assert not told(made, event_records.WorkerKill)


def test_a_signal_that_no_master_heard_is_in_the_snapshot() -> None:
    made = started(2)
    made.kill_master(back_in=5.0)
    made.signal("TERM")
    assert made.run_until(lambda: made.ended is not None, 10.0)


def test_hup_restarts() -> None:
    made = started(2)
    made.signal("HUP")
    made.signal("HUP")  # one is under way
    made.run(10.0)
    assert [each.command for each in made.cluster.operations] == ["start", "restart all"] if made.cluster else False
    assert [each.spawn.meta["generation"] for each in made.serving()] == [2, 2]


# Groups.


def test_a_further_group_starts_one_worker_at_a_time() -> None:
    made = started(1)
    made.programs["jobs"] = Program(boot=2.0)
    made.request(StartGroup(group("jobs", 3)))
    for expected in (1, 2, 3):
        assert len(made.alive("jobs")) == expected
        made.run(2.0)
    assert operation(made).state == "done"
    made.kernel.kill(made.serving("jobs", 1)[0].worker)
    made.kernel.kill(made.serving("jobs", 2)[0].worker)
    made.run(0.5)
    assert len(made.alive("jobs")) == 3  # only the first start is one at a time


def test_a_group_may_come_again_once_it_is_gone() -> None:
    made = two_groups()
    with pytest.raises(Rejected, match="there is a group 'jobs' already"):
        made.request(StartGroup(group("jobs")))
    made.request(Shutdown("jobs"))
    made.run(10.0)
    made.request(StartGroup(group("jobs", 1)))
    made.run(10.0)
    assert len(made.serving("jobs")) == 1


# What is refused.


@pytest.mark.parametrize(
    ("request_", "code", "says"),
    [
        (Restart("nobody"), "not_found", "nobody"),
        (Restart("web.9"), "not_found", "no slot 9"),
        (Restart("1"), "bad_request", "several groups"),
        (Shutdown("nobody"), "not_found", "nobody"),
        (Scale("x", "web"), "bad_request", "'x' is not a count"),
        (Scale("", "web"), "bad_request", "'' is not a count"),
        (Scale("+", "web"), "bad_request", "not a count"),
        (Scale("++1", "web"), "bad_request", "not a count"),
        (Scale("1.5", "web"), "bad_request", "not a count"),
        (Scale("-4", "web"), "bad_request", "-1 workers are not allowed"),
        (Scale("100000", "web"), "bad_request", "100000 workers are not allowed"),
        (Scale("2", "nobody"), "not_found", "no group 'nobody'"),
        (Scale("2"), "bad_request", "several groups"),
        (StartGroup(group("web")), "bad_request", "there is a group 'web' already"),
    ],
)
def test_what_is_refused_changes_nothing(request_: Any, code: str, says: str) -> None:
    made = two_groups()
    assert made.cluster is not None
    before = json.dumps(made.cluster.checkpoint())
    sent = len(made.history)
    with pytest.raises(Rejected, match=says) as caught:
        made.request(request_)
    assert caught.value.code == code
    assert json.dumps(made.cluster.checkpoint()) == before
    assert len(made.history) == sent + 1
    made.run(10.0)
    assert not told(made, event_records.OperationStart)


@pytest.mark.parametrize(
    "request_", [Restart("all"), Scale("3", "web"), Shutdown("web"), Shutdown("all"), StartGroup(group("more"))]
)
def test_nothing_is_begun_once_the_service_ends(request_: Any) -> None:
    made = started(2, replace(GOOD, stop_takes=5.0))
    made.request(Shutdown("all"))
    with pytest.raises(Rejected) as caught:
        made.request(request_)
    assert caught.value.code == "stopping"
    made.request(ExitNow())  # this is still possible
    assert made.ended == 0


def test_a_policy_of_the_group_is_its_own() -> None:
    made = started(1, restart=policy(auto_restart=False))
    made.programs["jobs"] = GOOD
    made.request(StartGroup(group("jobs", 1)))
    made.run(5.0)
    for process in made.serving():
        made.kernel.kill(process.worker)
    made.run(5.0)
    assert [process.spawn.label for process in made.serving()] == ["jobs.1"]
