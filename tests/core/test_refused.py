"""A request is planned before it is applied: what is refused leaves no trace, and what is accepted is answered for."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from cluster_service.core.engine.cluster import REQUEST_PLANS, Cluster
from cluster_service.core.model.cluster_state import MAX_FINISHED, MAX_RUNNING
from cluster_service.core.model.spec import GroupSpec, Release, Spec
from cluster_service.core.protocol import actions
from cluster_service.core.protocol.requests import (
    Cancel,
    ExitNow,
    Rejected,
    Reload,
    Request,
    Restart,
    Rollback,
    Scale,
    Shutdown,
    StartGroup,
    Upgrade,
)
from cluster_service.core.protocol.requests import Test as RunTest
from tests.sim.promises import CheckedWorld, everything

from .stories import GOOD, HANGS, operation, slots, started

if TYPE_CHECKING:
    from collections.abc import Callable

    from cluster_service.testing import World

NEW = Release("script", "new")


def spec(*groups: GroupSpec) -> Spec:
    return Spec("default", groups)


def web(count: int = 1, **more: Any) -> GroupSpec:
    return GroupSpec("web", count, more.pop("release", Release("script", "app")), **more)


REFUSED: list[tuple[Request, str]] = [
    (Restart("web"), "busy"),
    (Restart("nobody"), "not_found"),
    (Scale("2", "jobs"), "bad_request"),
    (Scale("9" * 5000, "web"), "bad_request"),
    (Shutdown("web.7"), "not_found"),
    (StartGroup(web()), "bad_request"),
    (Upgrade("web", NEW), "busy"),
    (Upgrade("all", NEW), "bad_request"),
    (Upgrade("jobs", NEW, test="x"), "bad_request"),
    (Upgrade("empty", NEW), "bad_request"),
    (Rollback("jobs"), "not_found"),
    (Cancel("77"), "not_found"),
    (RunTest("x", group="nobody"), "not_found"),
    # all at once: scaling web would do, its new release would not
    (Reload(spec(web(5, release=NEW), web(1)), everybody=True), "busy"),
    (Reload(spec(web(3), replace(web(0, release=NEW), name="jobs"))), "bad_request"),
    (Reload(spec(web(5), replace(web(3, release=NEW), name="empty"), replace(web(0, release=NEW), name="jobs"))),
     "bad_request"),
]  # fmt: skip


def busy() -> CheckedWorld:
    """A world where the group web is being restarted, jobs is a singleton, and empty has no workers."""
    groups = (web(3), replace(web(1, singleton=True), name="jobs"), replace(web(1), name="empty"))
    made = CheckedWorld(spec(*groups), {"app": GOOD, "new": GOOD})
    made.run(10.0)
    made.request(Scale("0", "empty"))
    made.run(10.0)
    made.programs["app"] = HANGS
    made.request(Restart("web"))
    made.run(1.0)
    return made


@pytest.mark.parametrize(("request_", "code"), REFUSED, ids=lambda each: type(each).__name__)
def test_what_is_refused_leaves_everything_as_it_was(request_: Request, code: str) -> None:
    made = busy()
    assert made.cluster is not None
    before = everything(made.cluster, made.clock.now)
    with pytest.raises(Rejected) as caught:
        made.request(request_)
    assert caught.value.code == code
    assert everything(made.cluster, made.clock.now) == before


def test_every_kind_of_request_is_among_those() -> None:
    assert {type(request) for request, _ in REFUSED} | {ExitNow} == set(REQUEST_PLANS)


def test_a_refused_request_after_a_suspension_forgives_the_time_once() -> None:
    made = started(1)
    made.programs["app"] = replace(GOOD, boot=50.0)
    made.request(Restart("web"))
    made.run(1.0)
    assert made.cluster is not None
    cluster = made.cluster
    deadline = max(worker.deadline or 0.0 for worker in cluster.workers.values())
    for _ in range(3):
        with pytest.raises(Rejected):
            cluster.request(Restart("nobody"), made.clock.now + 100.0)
    cluster.handle(None, made.clock.now + 100.0)
    assert max(worker.deadline or 0.0 for worker in cluster.workers.values()) <= deadline + 101.0


def test_a_mistake_in_a_plan_is_an_error_and_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    made = started(1)
    assert made.cluster is not None
    before = everything(made.cluster, made.clock.now)

    def wrong(_cluster: Cluster, _request: Restart) -> Any:
        raise KeyError("web")

    monkeypatch.setitem(REQUEST_PLANS, Restart, wrong)
    with pytest.raises(Rejected, match="KeyError") as caught:
        made.request(Restart("all"))
    assert caught.value.code == "internal"
    assert everything(made.cluster, made.clock.now) == before


# A reload is judged by what it asks for.


def test_a_reload_may_make_several_workers_of_a_singleton() -> None:
    made = started(1, singleton=True)
    made.request(Reload(spec(web(3, singleton=False))))
    made.run(10.0)
    assert (operation(made).state, slots(made)) == ("done", [1, 2, 3])


def test_a_reload_may_make_a_singleton_of_several_workers_that_an_operator_wanted() -> None:
    made = started(1)
    made.request(Scale("3"))
    made.run(10.0)
    made.request(Reload(spec(web(1, singleton=True))))
    made.run(10.0)
    assert (operation(made).state, slots(made)) == ("done", [1])


def test_a_reload_that_is_refused_can_be_given_again() -> None:
    made = started(2)
    made.programs["new"] = GOOD
    made.request(Scale("0"))
    made.run(10.0)
    with pytest.raises(Rejected, match="no workers to be replaced"):
        made.request(Reload(spec(web(2, release=NEW))))
    made.request(Reload(spec(web(3, release=NEW)), monitor=0.0))
    made.run(10.0)
    assert (operation(made).state, slots(made)) == ("done", [1, 2, 3])
    assert {process.spawn.argv[0] for process in made.serving()} == {"new"}


# What is forgotten, and what never is.


def test_an_upgrade_that_is_watched_outlives_any_number_of_commands() -> None:
    made = started(1)
    made.programs["new"] = GOOD
    upgrade = made.request(Upgrade("web", NEW, monitor=500.0))
    made.run(10.0)
    for _ in range(3 * MAX_FINISHED):
        made.request(Scale("1"))
    assert made.cluster is not None
    made.run(5.0)
    made.kill_master()
    made.run(5.0)
    assert upgrade.id in {each.id for each in made.cluster.operations}
    assert len(made.cluster.operations) <= MAX_FINISHED + 2
    made.run(1500.0)
    assert made.cluster.operation(upgrade.id).state == "done"
    assert made.kernel.master_starts == 2


def test_what_a_reload_has_begun_is_known_until_it_has_ended() -> None:
    made = started(1)
    made.programs["new"] = replace(GOOD, dies_at=1.0)
    jobs = replace(web(1, release=Release("script", "jobs")), name="jobs", stop_timeout=400.0)
    made.programs["jobs"] = replace(GOOD, stop_takes=300.0)
    made.request(StartGroup(jobs))
    made.run(10.0)
    assert made.cluster is not None
    made.cluster.spec = spec(web(1), jobs)
    reload = made.request(Reload(spec(web(1, release=NEW)), monitor=5.0))  # the one is undone, the other takes long
    made.run(20.0)
    for _ in range(3 * MAX_FINISHED):
        made.request(Scale("1", "web"))
    made.run(400.0)
    assert made.cluster.operation(reload.id).state == "failed"


def test_the_number_of_those_that_run_is_bounded_and_the_service_can_be_ended() -> None:
    made = started(0)
    made.programs["app"] = HANGS
    for number in range(MAX_RUNNING):
        made.request(Scale(str(number + 1)))
    assert made.cluster is not None
    assert len(made.cluster.running_operations()) == MAX_RUNNING
    with pytest.raises(Rejected, match="which is the maximum") as caught:
        made.request(Scale("+1"))
    assert caught.value.code == "busy"
    made.request(Shutdown("all"))
    assert made.run_until(lambda: made.ended is not None, 60.0)


# Whose operation it is.


def gone(made: World) -> None:
    made.request(ExitNow())


def shut(made: World) -> None:
    made.request(Shutdown("all"))
    made.run(10.0)


@pytest.mark.parametrize("end", [gone, shut])
@pytest.mark.parametrize("request_", [Restart("all"), Shutdown("all"), Cancel(), ExitNow()])
def test_what_is_asked_of_a_service_that_has_ended_is_refused(end: Callable[[World], None], request_: Request) -> None:
    made = started(1)
    cluster = made.cluster
    assert cluster is not None
    end(made)
    with pytest.raises(Rejected) as caught:
        cluster.request(request_, made.clock.now)
    assert caught.value.code == "stopping"


def test_each_request_is_answered_with_its_own_operation() -> None:
    made = started(2)
    assert made.cluster is not None
    first = made.request(Restart("all"))
    made.run(10.0)
    answers = [first, made.request(Scale("2")), made.request(Restart("web.1"))]
    assert [each.command for each in answers] == ["restart all", "scale 2 web", "restart web.1"]
    assert made.request(Cancel()) is answers[-1]
    reload = made.request(Reload(spec(web(3))))
    assert (reload.command, len(reload.children)) == ("reload", 1)
    operation_, todo = made.cluster.request(ExitNow(), made.clock.now)
    assert (operation_.command, operation_.state, operation_.ended_at) == ("exit now", "done", made.clock.now)
    assert isinstance(todo[-1], actions.End)
    assert reload.state == "cancelled"
