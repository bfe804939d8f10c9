"""Whoever restores the notebook and hears the guardian's snapshot can go on from anywhere."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from cluster_service.core.engine.cluster import Cluster
from cluster_service.core.model.spec import GroupSpec, ProcessLimits, Release, RestartPolicy, Spec
from cluster_service.core.protocol import actions, event_records
from cluster_service.core.protocol.requests import Restart, Scale, Shutdown
from cluster_service.testing import Program, World
from cluster_service.wire.facts import Snapshot, WorkerState
from cluster_service.wire.framing import to_json

from .stories import BROKEN, GOOD, generations, running, slots, started, told, world

if TYPE_CHECKING:
    from collections.abc import Callable


def test_a_spec_survives_json() -> None:
    within = ProcessLimits("www", "www-data", "027", ("nofile=1024:unlimited",), -5, "spread", -100)
    release = Release(
        "app", "a:b", ("x",), "/srv", "/usr/bin/python3", (("A", "1"),), ("-/srv/.env",), (("B", "2"),), "granian",
        ("127.0.0.1:80",), within, "python",
    )  # fmt: skip
    group = GroupSpec("web", 3, release, 1.0, 2.0, 3.0, RestartPolicy(False, 1.0, 2, 3.0))
    spec = Spec("default", (group, group.with_count(5)), "all-broken")
    assert Spec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


def roll(made: World) -> None:
    made.request(Restart("all"))


def roll_badly(made: World) -> None:
    made.programs["app"] = BROKEN
    made.request(Restart("all"))


def grow(made: World) -> None:
    made.request(Scale("5"))


def shrink(made: World) -> None:
    made.request(Scale("1"))


def crash(made: World) -> None:
    made.kernel.kill(made.serving()[0].worker)


def shut_one_down(made: World) -> None:
    made.request(Shutdown("web.2"))


STORIES: list[tuple[Callable[[World], None], list[int], list[int]]] = [
    # what is done to three workers, then which slots serve in the end, and generations
    (roll, [1, 2, 3], [2, 2, 2]),
    (roll_badly, [1, 2, 3], [1, 1, 1]),
    (grow, [1, 2, 3, 4, 5], [1, 1, 1, 1, 1]),
    (shrink, [1], [1]),
    (crash, [1, 2, 3], [1, 1, 1]),
    (shut_one_down, [1, 3], [1, 1]),
]


@pytest.mark.parametrize("back_in", [0.1, 40.0])
@pytest.mark.parametrize("story", STORIES, ids=lambda story: story[0].__name__)
def test_the_master_may_die_after_each_thing_that_it_does(
    story: tuple[Callable[[World], None], list[int], list[int]], back_in: float
) -> None:
    act, wanted_slots, wanted_generations = story
    for after in range(1, 200):
        made = started(3, replace(GOOD, stop_takes=0.3, leaves_children=True))
        made.kill_master(after, back_in)
        act(made)
        made.run(300.0)
        lived = made.kernel.master_starts == 1
        assert (slots(made), generations(made)) == (wanted_slots, wanted_generations), f"{after}\n{made.story()}"
        assert not running(made), f"{after}\n{made.story()}"
        assert not made.kernel.orphans
        assert len(made.kernel.processes) == len(wanted_slots)
        if lived:
            return
    raise AssertionError("the story has no end")


@pytest.mark.parametrize("back_in", [0.1, 90.0])
@pytest.mark.parametrize("signal", [True, False])
def test_the_master_may_die_at_any_time_of_a_shutdown(signal: bool, back_in: float) -> None:
    for after in range(1, 100):
        made = started(3, replace(GOOD, stop_takes=0.3))
        made.kill_master(after, back_in)
        if signal:
            made.signal("TERM")
        else:
            made.request(Shutdown("all"))
        made.run(300.0)
        assert made.ended is not None, f"{after}\n{made.story()}"
        assert made.ended == 0
        assert not told(made, event_records.WorkerKill)
        if made.kernel.master_starts == 1:
            return
    raise AssertionError("the story has no end")


def test_adoption_is_told() -> None:
    made = started(4)
    pids = [process.state.pid for process in made.serving()]
    made.kill_master()
    made.run(1.0)
    (start,) = told(made, event_records.MasterStart)
    assert (start.adopted, start.starts) == (4, 2)
    assert [process.state.pid for process in made.serving()] == pids
    assert not told(made, event_records.WorkerStart)


def test_what_happened_meanwhile_is_noted() -> None:
    made = started(3)
    made.kill_master(back_in=5.0)
    made.kernel.kill(made.serving("web", 2)[0].worker)
    made.run(4.0)
    assert slots(made) == [1, 3]
    made.run(3.0)
    assert slots(made) == [1, 2, 3]
    (exit_,) = told(made, event_records.WorkerExit)
    assert (exit_.slot, exit_.reason, exit_.signal) == (2, "failure", "SIGKILL")


def test_who_became_ready_meanwhile_is_ready() -> None:
    made = world(2, Program(boot=20.0, ready="told", not_yet=True), ready_timeout=30.0)
    made.run(1.0)
    made.kill_master(back_in=50.0)
    made.run(60.0)
    assert slots(made) == [1, 2]
    assert not told(made, event_records.WorkerStop)
    assert [event.by for event in told(made, event_records.WorkerReady)] == ["told", "told"]


def test_a_lost_notebook_costs_no_worker() -> None:
    made = started(3)
    made.request(Restart("web.2"))
    made.run(5.0)
    pids = [process.state.pid for process in made.serving()]
    made.kernel.notebook = ""
    made.kill_master()
    made.run(60.0)
    assert [process.state.pid for process in made.serving()] == pids
    assert not running(made)


def test_workers_of_a_group_that_was_lost_are_ended() -> None:
    spec = Spec("default", (GroupSpec("web", 1, Release("script", "app")),))
    cluster = Cluster(spec)
    state = WorkerState(7, 4711, {"group": "jobs", "slot": 1, "generation": 1, "reason": "start"}, started_at=90.0)
    stranger = WorkerState(8, 4712, {}, started_at=90.0)
    workers = [{**to_json(each)} for each in (state, stranger)]
    for worker in workers:
        del worker["type"]
    todo = cluster.handle(Snapshot(1, 4000, 0.0, workers, [], "", 8, 2), 100.0)
    assert [each.worker for each in todo if isinstance(each, actions.Stop)] == [7, 8]
    assert [(each.worker, each.group) for each in todo if isinstance(each, actions.Start)] == [(9, "web")]


def plain(cluster: Cluster) -> Any:
    return json.loads(json.dumps(cluster.checkpoint()))


@pytest.mark.parametrize("act", [roll, roll_badly, grow, shrink, crash, shut_one_down])
def test_the_notebook_loses_nothing(act: Callable[[World], None]) -> None:
    made = started(3, replace(GOOD, stop_takes=0.3))
    act(made)
    for _ in range(60):
        made.run(0.05)
        assert made.cluster is not None
        before = plain(made.cluster)
        assert plain(Cluster.restore(made.spec, before)) == before
        assert Cluster.restore(made.spec, before).deadline() == made.cluster.deadline()
