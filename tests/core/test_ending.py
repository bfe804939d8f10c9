"""The end of several groups: in the reverse order of what they depend on, in an announced time, and told honestly."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from cluster_service.core.model.spec import GroupSpec, Release, Spec
from cluster_service.core.protocol import event_records
from cluster_service.core.protocol.requests import Rejected, Reload, Restart, Scale, Shutdown, Upgrade
from cluster_service.core.rules import shutdown_order
from cluster_service.testing import Program, World
from cluster_service.wire.facts import Exited
from cluster_service.wire.orders import Signal, Spawn

from .stories import GOOD, running, started, told

DRAINS = replace(GOOD, stop_takes=3.0)


def group(name: str, *depends_on: str, stop_timeout: float = 10.0, **more: Any) -> GroupSpec:
    conditions = tuple((each, "ready") for each in depends_on)
    release = Release("script", name)
    return GroupSpec(name, 2, release, stop_timeout=stop_timeout, depends_on=conditions, **more)


def world(*groups: GroupSpec, program: Program = DRAINS, **more: Any) -> World:
    programs = {each.name: replace(program, addresses=()) for each in groups}
    made = World(Spec("default", groups, **more), {**programs, "new": GOOD})
    assert made.run_until(lambda: made.cluster is not None and not made.cluster.running_operations(), 60.0)
    made.events.clear()
    return made


def order_of_stops(made: World) -> list[str]:
    """The groups in the order in which workers of them were asked to end; one in brackets had ended altogether."""
    group_of = {each.what.worker: each.what.meta["group"] for each in made.history if isinstance(each.what, Spawn)}
    living = Counter(group_of.values())
    said: list[str] = []
    for each in made.history:
        if isinstance(each.what, Signal) and each.what.order == "stop":
            said.append(group_of[each.what.worker])
        elif isinstance(each.what, Exited):
            name = group_of[each.what.worker]
            living[name] -= 1
            said += [f"({name})"] if not living[name] else []
    return list(dict.fromkeys(said))


REDIS, CELERY, WEB = group("redis"), group("celery", "redis"), group("web", "redis")

ORDERS: list[tuple[tuple[GroupSpec, ...], list[str]]] = [
    ((REDIS, CELERY), ["celery", "(celery)", "redis", "(redis)"]),
    ((CELERY, REDIS), ["celery", "(celery)", "redis", "(redis)"]),
    ((group("a"), group("b")), ["a", "b", "(a)", "(b)"]),
    ((REDIS, CELERY, WEB), ["celery", "web", "(celery)", "(web)", "redis", "(redis)"]),
    ((group("a"), group("b", "a"), group("c", "b")), ["c", "(c)", "b", "(b)", "a", "(a)"]),
    ((group("a"), group("b", "a"), group("c", "a", "b")), ["c", "(c)", "b", "(b)", "a", "(a)"]),
]


@pytest.mark.parametrize(("groups", "expected"), ORDERS, ids=lambda each: " ".join(map(str, each))[:30])
@pytest.mark.parametrize("how", ["request", "signal", "after a delay"])
def test_a_group_ends_after_all_that_depend_on_it(groups: tuple[GroupSpec, ...], expected: list[str], how: str) -> None:
    made = world(*groups, shutdown_delay=5.0 if how == "after a delay" else 0.0)
    if how == "signal":
        made.signal("TERM")
    else:
        made.request(Shutdown("all"))
    assert made.run_until(lambda: made.ended is not None, 120.0)
    assert order_of_stops(made) == expected
    assert not told(made, event_records.WorkerKill)
    (end,) = told(made, event_records.OperationEnd)
    assert (end.state, end.replaced, end.of, end.reason) == ("done", 2 * len(groups), 2 * len(groups), None)


def test_a_group_that_is_waited_for_is_kept_running() -> None:
    made = world(REDIS, CELERY)
    made.request(Shutdown("all"))
    made.run(0.5)
    made.kernel.kill(made.serving("redis")[0].worker)
    made.run(2.0)
    assert len(made.serving("redis")) == 2
    assert made.run_until(lambda: made.ended is not None, 60.0)


@pytest.mark.parametrize("after", range(1, 30, 3))
def test_the_master_may_die_meanwhile(after: int) -> None:
    made = world(REDIS, CELERY)
    made.kill_master(after)
    made.signal("TERM")
    assert made.run_until(lambda: made.ended is not None, 120.0), made.story()
    order = [each for each in order_of_stops(made) if not each.startswith("(")]
    assert order == ["celery", "redis"]


def test_the_time_that_it_takes_is_announced_and_kept() -> None:
    made = world(REDIS, CELERY, group("web", "celery", stop_timeout=20.0), program=replace(GOOD, stop_takes=None))
    assert made.cluster is not None
    assert shutdown_order.remaining_shutdown_time(made.cluster) == 40.0
    began = made.clock.now
    asked = made.request(Shutdown("all"))
    assert "ending web, then celery, then redis; within 40 s" in [text for _, text in asked.steps]
    assert made.run_until(lambda: made.ended is not None, 60.0)
    assert made.clock.now - began <= 42.0
    assert asked.reason == "killed after the stop timeout: web.1, web.2, celery.1, celery.2, redis.1, redis.2"


def test_what_a_group_depends_on_stays_until_nothing_is_left_of_it() -> None:
    """A server behind a shell script still needs its database when the shell has ended."""
    made = world(REDIS, CELERY, program=replace(GOOD, leaves_children=True, children_take=3.0))
    made.request(Shutdown("all"))
    made.run_until(lambda: made.ended is not None, 60.0)
    stops = {event.group: each.at for each in made.history if isinstance(event := each.what, event_records.WorkerStop)}
    assert stops["redis"] - stops["celery"] == pytest.approx(3.0, abs=0.1)
    assert made.ended == 0


def test_groups_that_depend_on_each_other_end_together() -> None:
    made = world(group("a"), group("b"))
    assert made.cluster is not None
    for name, other in (("a", "b"), ("b", "a")):
        each = made.cluster.groups[name]
        each.spec = replace(each.spec, depends_on=((other, "ready"),))
    assert shutdown_order.remaining_shutdown_time(made.cluster) == 10.0
    made.request(Shutdown("all"))
    assert made.run_until(lambda: made.ended is not None, 30.0)


def test_groups_that_the_configuration_has_no_more_end_in_order_too() -> None:
    made = world(REDIS, CELERY, group("web"))
    asked = made.request(Reload(Spec("default", (group("web"),))))
    for refused in (Restart("redis"), Scale("3", "redis"), Shutdown("redis"), Upgrade("redis", Release("script", "x"))):
        with pytest.raises(Rejected, match="group 'redis' is being shut down"):
            made.request(refused)
    with pytest.raises(Rejected, match="is being shut down"):
        made.request(Reload(Spec("default", (REDIS, group("web")))))
    made.run(20.0)
    assert order_of_stops(made) == ["celery", "(celery)", "redis", "(redis)"]
    assert made.cluster is not None
    assert made.cluster.operation(asked.id).state == "done"
    made.request(Scale("1", "redis"))
    made.run(10.0)
    assert len(made.serving("redis")) == 1  # what an operator asks for later is not ended


def test_an_upgrade_under_way_stops_where_it_is() -> None:
    made = world(REDIS, CELERY)
    made.request(Upgrade("redis", Release("script", "new"), monitor=100.0))
    made.run(5.0)
    made.events.clear()
    made.request(Shutdown("all"))
    assert made.run_until(lambda: made.ended is not None, 60.0)
    assert not told(made, event_records.WorkerStart)
    assert {each.group for each in told(made, event_records.WorkerKill)} == set()


def test_a_shutdown_that_had_to_kill_says_so() -> None:
    made = started(2, replace(GOOD, stop_takes=None), stop_timeout=5.0)
    asked = made.request(Shutdown("all"))
    assert made.run_until(lambda: made.ended is not None, 30.0)
    assert (asked.state, asked.reason) == ("done", "killed after the stop timeout: web.1, web.2")
    assert [text for _, text in asked.steps if "killed" in text]
    assert (asked.replaced, asked.ended_at) == (2, made.clock.now)


def test_a_restart_that_had_to_kill_says_so() -> None:
    made = started(1, replace(GOOD, stop_takes=None), stop_timeout=5.0)
    asked = made.request(Restart("all"))
    made.run(30.0)
    assert (asked.state, asked.reason) == ("done", "killed after the stop timeout: web.1")
    assert not running(made)


@pytest.mark.parametrize(
    ("depends", "stages", "seconds"),
    [
        ({}, [], 0.0),
        ({"a": []}, [["a"]], 1.0),
        ({"a": [], "b": ["a"], "c": ["a"]}, [["b", "c"], ["a"]], 4.0),
        ({"a": [], "b": ["a"], "c": ["b"]}, [["c"], ["b"], ["a"]], 6.0),
        ({"a": ["nobody"], "b": ["b"]}, [["a", "b"]], 2.0),
        ({"a": ["b"], "b": ["a"], "c": []}, [["c"], ["a", "b"]], 3.0),
    ],
)
def test_order_and_time_as_arithmetic(depends: dict[str, list[str]], stages: list[list[str]], seconds: float) -> None:
    timeouts = {"a": 1.0, "b": 2.0, "c": 3.0}
    assert [sorted(stage) for stage in shutdown_order.shutdown_stages(depends)] == stages
    assert shutdown_order.longest_shutdown(depends, timeouts) == seconds


def test_a_group_without_workers_is_gone_at_once() -> None:
    made = world(group("web"))
    made.request(Scale("0", "web"))
    made.run(10.0)
    made.kernel.refuse_forks = 100
    made.request(Scale("2", "web"))
    made.run(0.05)
    made.request(Reload(Spec("default", ())))
    made.kernel.refuse_forks = 0
    made.request(Scale("1", "web"))  # it is not being shut down any more
    made.run(10.0)
    assert len(made.serving("web")) == 1
