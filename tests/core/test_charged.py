"""The failure of a worker is charged to the operations that wanted it, never to one that replaces it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cluster_service.core.model.spec import GroupSpec, Release, RestartPolicy, Spec
from cluster_service.core.protocol import event_records
from cluster_service.core.protocol.requests import Reload, Restart, Rollback, Scale, StartGroup, Upgrade
from cluster_service.testing import World

from .stories import BROKEN, GOOD, operation, started, told

SLOW_TO_FAIL = replace(BROKEN, boot=10.0, dies_at=3.0)
POLICY = RestartPolicy(per_minute=1, slow_pace=5.0)
MENDED = Release("script", "mended")


def web(release: str = "app", count: int = 1, **more: object) -> GroupSpec:
    return replace(GroupSpec("web", count, Release("script", release), restart=POLICY), **more)  # type: ignore[arg-type]


def broken(age: float = 2.8) -> World:
    """A service whose slot web.1 is broken, *age* seconds after it was tried again; that fails after 3 seconds."""
    made = World(Spec("default", (web(),)), {"app": SLOW_TO_FAIL, "mended": GOOD, "other": GOOD})
    assert made.run_until(lambda: bool(told(made, event_records.SlotBroken)), 60.0)
    assert made.run_until(lambda: not made.alive(), 60.0)
    assert made.run_until(lambda: bool(made.alive()), 60.0)
    made.run(age)
    assert made.cluster is not None
    assert not made.cluster.running_operations()
    return made


@pytest.mark.parametrize("age", [0.1, 2.0, 2.8, 2.95])
def test_a_reload_that_mends_what_is_broken_is_done(age: float) -> None:
    made = broken(age)  # the old one fails before, while or after the new one is checked
    made.request(Reload(Spec("default", (web("mended"),)), monitor=5.0))
    made.run(60.0)
    assert (operation(made).state, operation(made).reason) == ("done", None)


@pytest.mark.parametrize("age", [0.1, 2.0, 2.8, 2.95])
def test_a_reload_that_mends_and_scales_is_done(age: float) -> None:
    made = broken(age)
    made.request(Reload(Spec("default", (web("mended", 3),)), monitor=5.0))
    made.run(60.0)
    assert (operation(made).state, operation(made).reason) == ("done", None)
    assert len(made.serving()) == 3


def test_a_group_that_waits_for_what_is_being_mended_is_no_failure() -> None:
    made = broken()
    other = GroupSpec("other", 1, Release("script", "other"), depends_on=(("web", "ready"),))
    made.request(Reload(Spec("default", (web("mended"), other)), monitor=5.0))
    made.run(60.0)
    assert (operation(made).state, operation(made).reason) == ("done", None)
    assert len(made.serving("other")) == 1


@pytest.mark.parametrize("age", [0.1, 2.0, 2.8, 2.95])
@pytest.mark.parametrize("how", ["restart", "upgrade"])
def test_what_replaces_a_broken_worker_is_done(how: str, age: float) -> None:
    made = broken(age)
    made.programs["app"] = GOOD
    made.request(Restart("all") if how == "restart" else Upgrade("web", MENDED, monitor=5.0))
    made.run(60.0)
    assert (operation(made).state, operation(made).reason) == ("done", None)


def test_a_rollback_from_what_is_broken_is_done() -> None:
    made = started(1, restart=POLICY)
    made.programs["new"] = GOOD
    made.request(Upgrade("web", Release("script", "new"), monitor=0.0))
    made.run(10.0)
    made.programs["new"] = SLOW_TO_FAIL
    made.kernel.kill(made.serving()[0].worker)
    assert made.run_until(lambda: bool(told(made, event_records.SlotBroken)), 60.0)
    made.request(Rollback("web"))
    made.run(30.0)
    assert (operation(made).state, operation(made).reason) == ("done", None)


def test_scaling_beside_an_upgrade_that_mends_is_done() -> None:
    made = broken()
    made.request(Upgrade("web", MENDED, monitor=5.0))
    scale = made.request(Scale("3"))
    made.run(60.0)
    assert made.cluster is not None
    assert (made.cluster.operation(scale.id).state, len(made.serving())) == ("done", 3)


def test_what_an_undone_upgrade_leaves_broken_is_charged_to_the_scaling_beside_it() -> None:
    made = broken()
    made.programs["mended"] = BROKEN
    made.request(Upgrade("web", MENDED, monitor=5.0))
    scale = made.request(Scale("3"))
    made.run(120.0)
    assert made.cluster is not None
    assert made.cluster.operation(scale.id).state == "failed"
    assert not made.cluster.running_operations()


def test_the_record_of_what_has_ended_is_whole() -> None:
    made = started(2)
    made.programs["app"] = BROKEN
    failed = made.request(Restart("all"))
    made.run(60.0)
    made.programs["app"] = GOOD
    done = made.request(Restart("all"))
    made.run(60.0)
    for record, state, replaced in ((failed, "failed", 0), (done, "done", 2)):
        assert (record.state, record.replaced, len(record.slots)) == (state, replaced, 2)
        assert record.ended_at is not None
        (event,) = [each for each in told(made, event_records.OperationEnd) if each.operation == record.id]
        assert (event.state, event.replaced, event.of) == (state, replaced, 2)


def test_an_upgrade_of_a_group_that_waits_in_vain_has_an_end() -> None:
    made = broken()
    assert made.cluster is not None
    made.programs["other2"] = GOOD
    waiting = GroupSpec("other", 2, Release("script", "other"), depends_on=(("web", "ready"),))
    made.request(StartGroup(waiting))
    made.run(10.0)
    made.request(Upgrade("other", Release("script", "other2"), monitor=5.0))
    made.run(10.0)
    why = "other waits for web, which keeps failing; it starts when web serves"
    assert (operation(made).state, operation(made).reason) == ("undone", why)
    made.programs["app"] = GOOD
    made.request(Restart("web"))
    made.run(30.0)
    assert [process.spawn.argv[0] for process in made.serving("other")] == ["other", "other"]
