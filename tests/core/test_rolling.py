"""Replacing all workers while the service goes on."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cluster_service.core.protocol import event_records
from cluster_service.core.protocol.requests import Rejected, Restart, Scale
from cluster_service.core.rules.replacement import surge
from cluster_service.testing import Program

from .stories import BROKEN, GOOD, HANGS, generations, operation, policy, slots, started, told


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 8, 12])
@pytest.mark.parametrize("program", [GOOD, replace(GOOD, stop_takes=3.0), replace(GOOD, stop_takes=None), Program()])
def test_ready_first_and_no_more_than_the_surge(count: int, program: Program) -> None:
    made = started(count, program)
    made.request(Restart("all"))
    while operation(made).running:
        made.run(0.05)
        assert set(slots(made)) == set(range(1, count + 1))
        staying = [process for process in made.alive() if "stop" not in process.state.signals]
        assert len(staying) <= count + surge(count)
    assert operation(made).state == "done"
    assert operation(made).replaced == count
    assert generations(made) == [2] * count
    assert not told(made, event_records.SlotBroken)


def test_the_worked_example_of_the_docstring() -> None:
    made = started(8, replace(GOOD, stop_takes=0.0))
    made.request(Restart("all"))
    assert len(made.alive()) == 10
    made.run(0.51)
    assert (generations(made), len(made.alive())) == ([1] * 6 + [2] * 2, 10)
    made.run(0.5)
    assert (generations(made), len(made.alive())) == ([1] * 4 + [2] * 4, 10)
    made.run(1.0)
    assert (generations(made), operation(made).state) == ([2] * 8, "done")


def test_only_what_was_named_is_replaced() -> None:
    made = started(4)
    made.request(Restart("web.3"))
    made.run(10.0)
    assert generations(made) == [1, 1, 1, 2]
    pid = made.serving("web", 1)[0].state.pid
    made.request(Restart(f"pid:{pid}"))
    made.run(10.0)
    assert generations(made) == [1, 1, 2, 3]
    assert [each.spawn.meta["slot"] for each in made.serving() if each.spawn.meta["generation"] == 3] == [1]


@pytest.mark.parametrize(
    ("program", "seconds", "why"),
    [
        (BROKEN, 1.0, "exited with code 1 before it was ready: ImportError: no module named x"),
        (HANGS, 31.0, "was not ready within 30 s"),
    ],
)
@pytest.mark.parametrize("count", [1, 2, 8])
def test_a_bad_release_takes_nothing_down(count: int, program: Program, seconds: float, why: str) -> None:
    made = started(count, ready_timeout=30.0)
    old = [process.worker for process in made.serving()]
    made.programs["app"] = program
    made.request(Restart("all"))
    made.run(seconds)
    assert operation(made).state == "failed"
    assert why in (operation(made).reason or "")
    made.run(300.0)
    assert [process.worker for process in made.serving()] == old
    assert len(made.alive()) == count
    assert len(told(made, event_records.WorkerStart)) == surge(count)  # nothing is tried again, the old ones are wanted
    made.programs["app"] = GOOD
    made.request(Restart("all"))
    made.run(60.0)
    assert operation(made).state == "done"
    assert generations(made) == [3] * count


def test_a_bad_release_says_its_traceback() -> None:
    made = started(2)
    made.programs["app"] = BROKEN
    made.request(Restart("all"))
    made.run(5.0)
    assert (operation(made).reason or "").splitlines()[1:] == [
        "    Traceback (most recent call last):",
        "    ImportError: no module named x",
    ]


def test_a_worker_that_dies_on_the_way_does_not_fail_a_good_release() -> None:
    made = started(4)
    made.request(Restart("all"))
    made.run(0.6)
    new = [process for process in made.serving() if process.spawn.meta["generation"] == 2]
    made.kernel.kill(new[0].worker)
    old = [process for process in made.serving() if process.spawn.meta["generation"] == 1]
    made.kernel.kill(old[-1].worker)
    made.run(30.0)
    assert operation(made).state == "done"
    assert generations(made) == [2] * 4


def test_one_rolling_operation_at_a_time() -> None:
    made = started(2)
    made.request(Restart("all"))
    first = operation(made)
    with pytest.raises(Rejected, match=f"operation {first.id}") as caught:
        made.request(Restart("web.1"))
    assert caught.value.code == "busy"
    assert operation(made) == first
    made.run(30.0)
    made.request(Restart("web.1"))


def test_what_is_scaled_away_is_not_waited_for() -> None:
    made = started(4, replace(GOOD, boot=5.0, stop_takes=2.0))
    made.request(Restart("all"))
    made.run(6.0)
    made.request(Scale("2"))
    made.run(60.0)
    assert generations(made) == [2, 2]
    assert {each.state for each in made.cluster.operations} == {"done"} if made.cluster else False


def test_new_slots_are_of_the_release_that_serves() -> None:
    made = started(2, ready_timeout=30.0)
    made.programs["app"] = BROKEN
    made.request(Restart("all"))
    made.run(60.0)
    assert operation(made).state == "failed"
    made.programs["app"] = GOOD
    made.request(Scale("+1"))
    made.run(10.0)
    assert generations(made) == [1, 1, 1]


def test_a_restart_mends_what_is_broken() -> None:
    made = started(2, restart=policy(per_minute=2))
    made.programs["app"] = BROKEN
    for process in made.serving():
        made.kernel.kill(process.worker)
    made.run(30.0)
    assert len(told(made, event_records.SlotBroken)) == 2
    made.programs["app"] = GOOD
    made.request(Restart("all"))
    made.run(2.0)
    assert operation(made).state == "done"
    assert len(made.serving()) == 2
