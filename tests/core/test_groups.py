"""Several groups: who waits for whom, who is never there twice, and another configuration for all of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from cluster_service.core.engine.spec_reload import compare_specs
from cluster_service.core.model.spec import GroupSpec, Release, Spec
from cluster_service.core.protocol import event_records
from cluster_service.core.protocol.requests import Rejected, Reload, Restart, Scale, Shutdown, Upgrade
from cluster_service.testing import Program, World

from .stories import BROKEN, GOOD, operation, policy, running, told

DB = GroupSpec("db", 2, Release("command", "db"))
WEB = GroupSpec("web", 2, Release("script", "web", cwd="/srv"), depends_on=(("db", "ready"),))
JOBS = GroupSpec("jobs", 1, Release("command", "jobs"), singleton=True)

PROGRAMS = {
    "db": replace(GOOD, addresses=("127.0.0.1:1",)),
    "web": GOOD,
    "web2": GOOD,
    "jobs": Program(boot=0.5, ready="notify", addresses=(), stop_takes=2.0),
    "jobs2": Program(boot=0.5, ready="notify", addresses=(), stop_takes=2.0),
}


def world(*groups: GroupSpec, **more: Any) -> World:
    return World(Spec("default", groups, **more), PROGRAMS)


def started(*groups: GroupSpec) -> World:
    made = world(*groups)
    assert made.run_until(lambda: not running(made), 120.0)
    made.events.clear()
    return made


def ended(made: World, state: str = "done") -> None:
    assert made.run_until(lambda: made.answers and not running(made), 300.0), made.story()
    assert operation(made).state == state, operation(made).reason


@pytest.mark.parametrize(("what", "at"), [("ready", 0.5), ("started", 0.0)])
def test_a_group_waits_for_what_it_depends_on(what: str, at: float) -> None:
    made = world(replace(WEB, depends_on=(("db", what),)), DB)
    ended(made)
    starts = [each.at - 1000.0 for each in made.history if isinstance(each.what, event_records.WorkerStart)]
    assert [round(when, 3) for when in starts] == [0.0, 0.0, at, at]
    made.request(Shutdown("db"))
    ended(made)
    made.kernel.kill(made.serving("web")[0].worker)
    made.run(2.0)
    assert len(made.serving("web")) == 2  # once it is there it is on its own


def test_a_group_whose_condition_fails_is_not_started() -> None:
    made = world(WEB, DB)
    made.programs["db"] = BROKEN
    made.run(300.0)
    assert not made.alive("web")
    made.programs["db"] = PROGRAMS["db"]
    made.request(Restart("db"))
    made.run(5.0)
    assert len(made.serving("web")) == 2


def most_at_a_time(made: World, seconds: float) -> int:
    most = 0
    for _ in range(int(seconds / 0.05)):
        made.run(0.05)
        most = max(most, len(made.alive("jobs")))
    return most


@pytest.mark.parametrize("request_", [Restart("jobs"), Upgrade("jobs", Release("command", "jobs2"), monitor=2.0)])
def test_a_singleton_is_never_there_twice(request_: Any) -> None:
    made = started(JOBS)
    made.request(request_)
    assert most_at_a_time(made, 20.0) == 1
    ended(made)
    made.kernel.kill(made.serving("jobs")[0].worker)
    assert most_at_a_time(made, 5.0) == 1
    assert len(made.serving("jobs")) == 1


def test_a_bad_release_of_a_singleton_is_undone() -> None:
    made = started(JOBS)
    made.programs["jobs2"] = replace(PROGRAMS["jobs2"], dies_at=1.0)
    made.request(Upgrade("jobs", Release("command", "jobs2"), monitor=5.0))
    assert most_at_a_time(made, 20.0) == 1
    ended(made, "undone")
    assert [each.spawn.argv[0] for each in made.serving("jobs")] == ["jobs"]


def test_what_a_singleton_refuses() -> None:
    made = started(JOBS)
    with pytest.raises(Rejected, match="singleton"):
        made.request(Scale("2", "jobs"))
    with pytest.raises(Rejected, match="no second worker to test"):
        made.request(Upgrade("jobs", Release("command", "jobs2"), test="/t.py"))


def test_a_plan_says_what_would_change_and_who_would_restart() -> None:
    made = started(DB, WEB)
    assert made.cluster is not None
    new = Spec(
        "default",
        (
            replace(
                WEB,
                count=3,
                stop_timeout=5.0,
                restart=replace(WEB.restart, auto_restart=False, delay=0.5),
                depends_on=(("jobs", "started"),),
                release=replace(WEB.release, target="web2", env=(("A", "b"),)),
            ),
            JOBS,
        ),
        shutdown_delay=2.0,
    )
    found = [(change.group, change.effect, change.text) for change in compare_specs(made.cluster, new)]
    assert found == [
        ("", "settings", "shutdown_delay: 0s → 2s"),
        ("db", "stop", "stop its 2 workers"),
        ("web", "scale", "workers: 2 → 3"),
        ("web", "replace", "target: web → web2"),
        ("web", "replace", "env: changed: A"),
        ("web", "settings", "stop_timeout: 60s → 5s"),
        ("web", "settings", "auto_restart: true → false"),
        ("web", "settings", "restart_delay: 0.1s → 0.5s"),
        ("web", "settings", "depends_on: db:ready → jobs:started"),
        ("jobs", "start", "1 × jobs"),
    ]
    before = made.cluster.checkpoint()
    assert made.cluster.checkpoint() == before
    made.request(Reload(new, monitor=1.0))
    ended(made)
    assert sorted(each.spawn.argv[0] for each in made.serving()) == ["jobs", "web2", "web2", "web2"]
    assert made.cluster.groups["web"].spec == new.groups[0]
    assert compare_specs(made.cluster, new) == []


def test_nothing_new_changes_nothing() -> None:
    made = started(DB, WEB)
    made.request(Reload(made.spec))
    assert operation(made).state == "done"
    assert not told(made, event_records.WorkerStart)


def test_settings_restart_nobody() -> None:
    made = started(WEB)
    new = replace(made.spec, groups=(replace(WEB, stop_timeout=1.0, hang_timeout=3.0, monitor=1.0),))
    made.request(Reload(new))
    ended(made)
    assert not told(made, event_records.WorkerStart)


def test_what_an_operator_has_changed_stays() -> None:
    made = started(WEB)
    made.request(Scale("4", "web"))
    ended(made)
    made.request(Upgrade("web", replace(WEB.release, target="web2"), monitor=1.0))
    ended(made)
    made.request(Reload(replace(made.spec, groups=(replace(WEB, stop_timeout=1.0),))))
    ended(made)
    assert [each.spawn.argv[0] for each in made.serving("web")] == ["web2"] * 4


def test_a_bad_release_in_the_configuration_is_undone_and_can_be_tried_again() -> None:
    made = started(WEB)
    new = replace(made.spec, groups=(replace(WEB, release=replace(WEB.release, target="web2")),))
    made.programs["web2"] = BROKEN
    made.request(Reload(new, monitor=1.0))
    ended(made, "failed")
    assert "upgrade web web2: undone: " in (operation(made).reason or "")
    made.programs["web2"] = GOOD
    made.request(Reload(new, monitor=1.0))
    ended(made)
    assert [each.spawn.argv[0] for each in made.serving("web")] == ["web2"] * 2


def test_a_reload_while_a_group_rolls_is_refused_and_changes_nothing() -> None:
    made = started(WEB)
    made.request(Restart("all"))
    before = made.cluster.checkpoint() if made.cluster else None
    with pytest.raises(Rejected, match="is still running"):
        made.request(Reload(replace(made.spec, groups=(replace(WEB, release=replace(WEB.release, share="none")),))))
    assert made.cluster is not None
    assert made.cluster.checkpoint() == before


@pytest.mark.parametrize("after", range(0, 30, 3))
def test_the_master_may_die_in_the_middle_of_it(after: int) -> None:
    made = started(DB, WEB)
    new = Spec("default", (replace(WEB, count=3, release=replace(WEB.release, target="web2")), JOBS))
    made.kill_master(after + 1)
    made.request(Reload(new, monitor=1.0))
    made.run_until(lambda: made.answers and not running(made), 300.0)
    made.run(30.0)
    if made.cluster is not None and operation(made).kind == "start":  # the wish was lost with the master
        made.request(Reload(new, monitor=1.0))
        ended(made)
    assert sorted(each.spawn.argv[0] for each in made.serving()) == ["jobs", "web2", "web2", "web2"]


def test_everybody_may_be_replaced_after_those_who_must() -> None:
    made = started(DB, WEB)
    before = {each.worker for each in made.serving()}
    made.request(Reload(made.spec, everybody=True))
    ended(made)
    assert told(made, event_records.OperationStart)[-1].command == "restart all"
    new = replace(made.spec, groups=(DB, replace(WEB, release=replace(WEB.release, target="web2"))))
    made.request(Reload(new, monitor=1.0, everybody=True))
    ended(made)
    assert [each.command for each in told(made, event_records.OperationStart)][-2:] == [
        "upgrade web web2",
        "restart db",
    ]
    assert before.isdisjoint(each.worker for each in made.serving())
    assert sorted(each.spawn.argv[0] for each in made.serving()) == ["db", "db", "web2", "web2"]


def test_nobody_else_is_replaced_where_the_release_is_bad() -> None:
    made = started(DB, WEB)
    made.programs["web2"] = BROKEN
    before = {each.worker for each in made.serving("db")}
    new = replace(made.spec, groups=(DB, replace(WEB, release=replace(WEB.release, target="web2"))))
    made.request(Reload(new, monitor=1.0, everybody=True))
    ended(made, "failed")
    assert {each.worker for each in made.serving("db")} == before


@pytest.mark.parametrize("after", range(0, 40, 3))
def test_the_master_may_die_before_the_rest_is_replaced(after: int) -> None:
    made = started(DB, WEB)
    before = {each.worker for each in made.serving()}
    new = replace(made.spec, groups=(DB, replace(WEB, release=replace(WEB.release, target="web2"))))
    made.request(Reload(new, monitor=1.0, everybody=True))
    made.kill_master(after + 1)
    made.run(30.0)
    ended(made)
    assert before.isdisjoint(each.worker for each in made.serving())
    assert sorted(each.spawn.argv[0] for each in made.serving()) == ["db", "db", "web2", "web2"]


def test_who_waits_for_something_broken_is_told_so() -> None:
    made = world(WEB, replace(DB, restart=policy(auto_restart=False)))
    made.programs["db"] = BROKEN
    made.run(20.0)
    assert operation(made).state == "failed"
    made.request(Restart("web"))
    assert operation(made).reason == "web waits for db, which keeps failing; it starts when db serves"
    made.programs["db"] = PROGRAMS["db"]
    made.request(Restart("db"))
    made.run(5.0)
    assert len(made.serving("web")) == 2


def test_a_reload_whose_groups_have_gone_before_their_restart_ends_at_once() -> None:
    made = started(WEB, DB)
    reload = made.request(Reload(Spec("default", (WEB, DB, JOBS)), everybody=True))
    made.run(0.1)
    made.request(Shutdown("web"))
    made.request(Shutdown("db"))
    assert made.cluster is not None
    cluster = made.cluster
    assert made.run_until(lambda: not cluster.operation(reload.children[0]).running, 60.0)
    made.run(60.0)
    ended = cluster.operation(reload.id)
    assert (ended.state, ended.ended_at) == ("done", cluster.operation(reload.children[0]).ended_at)


def test_a_reload_of_auto_restart_holds_for_workers_that_wait_already() -> None:
    made = started(replace(WEB, depends_on=(), restart=policy(delay=50.0)))
    made.programs["web"] = BROKEN
    made.kernel.kill(made.serving()[0].worker)
    made.run(1.0)
    spec = made.spec.groups[0]
    never = replace(spec, restart=replace(spec.restart, auto_restart=False))
    made.request(Reload(Spec("default", (never,))))
    made.run(200.0)
    assert len(told(made, event_records.WorkerExit)) == 1
    made.programs["web"] = GOOD
    made.request(Reload(Spec("default", (spec,))))
    made.run(5.0)
    assert len(made.serving()) == 2
