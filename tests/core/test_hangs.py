"""Workers that hang, on a simulated machine: found in time, replaced successor first, and nobody else blamed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from cluster_service.core.protocol import event_records
from cluster_service.core.protocol.requests import Restart
from cluster_service.testing import Program, World

from .stories import GOOD, generations, slots, started, told

HANGS = replace(GOOD, hangs_at=40.0)


def one_that_hangs(count: int = 2, **more: Any) -> World:
    """A service in which the worker of slot 1 alone hangs, 40 s after its start."""
    made = started(count, HANGS, **{"hang_timeout": 10.0, **more})
    made.programs["app"] = GOOD
    first = made.alive(slot=1)[0]
    for other in made.alive():
        if other is not first:
            made.kernel.kill(other.worker, 9)
    assert made.run_until(lambda: len(made.serving()) == count, 20.0)
    made.events.clear()
    return made


def hang_at(made: World) -> float:
    """Let time pass until it hangs."""
    assert made.run_until(lambda: any(each.hung for each in made.alive()), 60.0)
    return made.clock.now


def test_its_successor_serves_before_it_is_asked_to_end_and_within_a_second_of_its_time() -> None:
    made = one_that_hangs()
    since = hang_at(made)
    hung = next(each for each in made.alive() if each.hung)
    assert made.run_until(lambda: len(made.serving()) == 2, 30.0)
    assert made.clock.now - since <= 10.0 + 1.0
    assert not hung.exited
    assert made.run_until(lambda: hung.exited, 10.0)
    assert made.run_until_quiet()
    (exit_,) = told(made, event_records.WorkerExit)
    assert (exit_.reason, exit_.pid) == ("hang", hung.state.pid)
    assert "hangs: its event loop or thread pool made no progress for 10 s" in exit_.detail
    (start,) = told(made, event_records.WorkerStart)
    assert (start.reason, start.slot) == ("hang", 1)
    assert made.cluster is not None
    assert made.cluster.groups["web"].slots[1].restarts == 1


def test_what_it_was_doing_is_told_before_it_is_asked_to_end() -> None:
    made = one_that_hangs()
    hang_at(made)
    made.run(30.0)
    order = [
        type(event) for event in made.events if isinstance(event, (event_records.WorkerHung, event_records.WorkerStop))
    ]
    assert order == [event_records.WorkerHung, event_records.WorkerStop]
    (hung,) = told(made, event_records.WorkerHung)
    assert hung.stacks == ("in its loop",)


def test_where_no_successor_may_be_started_it_is_not_waited_for() -> None:
    made = one_that_hangs()
    hang_at(made)
    made.kernel.refuse_forks = 1
    hung = next(each for each in made.alive() if each.hung)
    assert made.run_until(lambda: "stop" in hung.state.signals, 11.0)
    assert made.run_until(lambda: len(made.serving()) == 2, 30.0)


@pytest.mark.parametrize("fault", ["suspended", "the master hangs", "the master dies"])
def test_nobody_is_blamed_for_a_time_in_which_nobody_looked(fault: str) -> None:
    made = started(3, GOOD, hang_timeout=2.0)
    for _ in range(5):
        if fault == "suspended":
            made.suspend(100.0)
        elif fault == "the master hangs":
            made.hang_master(20.0)
        else:
            made.kill_master(back_in=20.0)
        made.run(60.0)
    assert not told(made, event_records.WorkerHung)
    assert not told(made, event_records.WorkerExit)


def test_one_that_boots_for_longer_is_not_one_that_hangs() -> None:
    made = started(2, Program(boot=25.0, ready="told"), kind="app", hang_timeout=2.0)
    made.request(Restart("all"))
    made.run(200.0)
    assert not told(made, event_records.WorkerHung)
    assert generations(made) == [2, 2]


@pytest.mark.parametrize("limit", [1.0, 2.0, 60.0])
def test_it_takes_two_samples_at_least(limit: float) -> None:
    made = started(1, HANGS, hang_timeout=limit)
    made.programs["app"] = GOOD
    since = hang_at(made)
    assert made.run_until(lambda: bool(told(made, event_records.WorkerHung)), limit + 30.0)
    assert limit <= made.clock.now - since + 0.25
    assert made.clock.now - since <= limit + 1.0


def test_without_a_limit_none_is_found() -> None:
    made = started(1, HANGS, hang_timeout=0.0)
    made.run(1000.0)
    assert not told(made, event_records.WorkerHung)


def test_a_program_that_has_said_watchdog_must_go_on_saying_it() -> None:
    made = started(2, replace(GOOD, beats=False), kind="command", hang_timeout=10.0)
    silent, speaking = made.alive()
    for _ in range(12):
        for process in (silent, speaking) if made.clock.now < 1010.0 else (speaking,):
            process.on_notify(process, {"WATCHDOG": "1"})
        made.run(4.0)
    (hung,) = told(made, event_records.WorkerHung)
    assert hung.pid == silent.state.pid
    assert "it has not said WATCHDOG=1 for 10 s" in hung.detail
    assert slots(made) == [1, 2]


def test_a_program_may_say_that_it_hangs() -> None:
    made = started(2, GOOD)
    first = made.alive()[0]
    first.on_notify(first, {"WATCHDOG": "trigger"})
    made.run(1.0)
    (hung,) = told(made, event_records.WorkerHung)
    assert hung.pid == first.state.pid


def test_one_that_asks_for_more_time_gets_it_and_no_more() -> None:
    made = one_that_hangs()
    process = made.alive(slot=1)[0]
    made.run_until(lambda: process.age >= 39.0, 60.0)
    process.on_notify(process, {"EXTEND_TIMEOUT_USEC": "30000000"})
    since = hang_at(made)
    made.run(25.0)
    assert not told(made, event_records.WorkerHung)
    assert made.run_until(lambda: bool(told(made, event_records.WorkerHung)), 60.0)
    assert 38.0 <= made.clock.now - since <= 41.0


def test_more_time_for_the_boot_and_for_the_stop() -> None:
    made = World.of(1, Program(boot=20.0, ready="told", stop_takes=20.0), ready_timeout=10.0, stop_timeout=10.0)
    made.run(5.0)
    process = made.alive()[0]
    process.on_notify(process, {"EXTEND_TIMEOUT_USEC": "17000000"})
    made.run(20.0)
    assert made.serving() == [process]
    made.signal("TERM")
    process.on_notify(process, {"EXTEND_TIMEOUT_USEC": "25000000"})
    made.run(30.0)
    assert made.ended == 0
    assert not told(made, event_records.WorkerKill)


def test_a_hang_in_the_middle_of_a_restart_is_replaced_once() -> None:
    made = one_that_hangs(3)
    hang_at(made)
    made.run(9.5)
    made.request(Restart("all"))
    assert made.run_until_quiet()
    assert generations(made) == [made.cluster.groups["web"].generation] * 3 if made.cluster else False
    assert len(made.alive()) == 3
