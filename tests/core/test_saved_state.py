"""What a service remembers from one life to the next."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from cluster_service.core.engine.cluster import Cluster
from cluster_service.core.model.spec import Release, Spec
from cluster_service.core.protocol.requests import Restart, Rollback, Upgrade
from cluster_service.core.readout.saved_state import read_saved_state, write_saved_state
from cluster_service.testing import World

from .stories import GOOD, operation, running, started

V2 = Release("script", "v2", cwd="/srv/v2")
PROGRAMS = {"app": GOOD, "v2": GOOD}


def upgraded() -> World:
    made = started(2)
    made.programs["v2"] = GOOD
    made.request(Upgrade("all", V2, monitor=1.0))
    assert made.run_until(lambda: not running(made), 60.0)
    assert operation(made).state == "done"
    return made


def kept(made: World) -> Any:
    assert made.cluster is not None
    return json.loads(json.dumps(write_saved_state(made.cluster, 5000.0)))


def test_the_promoted_release_its_past_and_the_operations_are_remembered() -> None:
    made = upgraded()
    again = Cluster(made.spec)
    (said,) = read_saved_state(again, kept(made), 9000.0, lambda _release: "")
    assert said == "web: continuing with the promoted release, v2 in /srv/v2"
    assert again.groups["web"].release == V2
    assert [each.target for each in again.groups["web"].past] == ["app"]
    assert [each.command for each in again.operations] == ["start", "upgrade all v2"]
    assert again.operations[0].at == made.cluster.operations[0].at - 4000.0 if made.cluster else False


def test_a_service_goes_on_from_there() -> None:
    made = upgraded()
    again = World(made.spec, made.programs)
    assert again.cluster is not None
    fresh = Cluster(made.spec)
    read_saved_state(fresh, kept(made), 5000.0, lambda _release: "")
    again.kernel.notebook = json.dumps(fresh.checkpoint())
    again.kill_master()
    again.run(10.0)
    for request, target in ((Restart("all"), "v2"), (Rollback(), "app")):
        again.request(request)
        assert again.run_until(lambda: not running(again), 60.0)
        again.run(5.0)
        assert [process.spawn.argv[0] for process in again.serving()] == [target] * 2


def test_who_starts_another_target_gets_that() -> None:
    made = upgraded()
    group = made.spec.groups[0]
    other = replace(made.spec, groups=(replace(group, release=replace(group.release, target="v3")),))
    again = Cluster(other)
    assert read_saved_state(again, kept(made), 0.0, lambda _release: "") == []
    assert again.groups["web"].release.target == "v3"


def test_code_that_is_gone_is_not_gone_on_with() -> None:
    made = upgraded()
    again = Cluster(made.spec)
    (said,) = read_saved_state(again, kept(made), 0.0, lambda release: f"{release.cwd} does not exist")
    assert said == "web: the promoted release v2 cannot be used any more (/srv/v2 does not exist)"
    assert again.groups["web"].release.target == "app"


def test_an_operation_that_was_under_way_is_not_any_more() -> None:
    made = started(2)
    made.request(Restart("all"))
    again = Cluster(made.spec)
    read_saved_state(again, kept(made), 0.0, lambda _release: "")
    assert (again.operations[-1].state, again.operations[-1].reason) == ("cancelled", "the service ended while it ran")


def configured(spec: Spec, *args: str, **variables: str) -> Spec:
    group = spec.groups[0]
    release = replace(group.release, args=args, env=tuple(variables.items()))
    return replace(spec, groups=(replace(group, release=release),))


def test_no_configured_argument_or_value_of_a_variable_is_kept() -> None:
    """What is gone on with has those of now; what an operator has given beside them is kept."""
    made = World(configured(started(2).spec, "-p", "hunter2", PASSWORD="hunter2", LEVEL="info"), PROGRAMS)
    assert made.run_until(lambda: not running(made), 60.0)
    release = replace(V2, args=("-p", "hunter2"), env=(("PASSWORD", "hunter2"), ("COLOUR", "red")))
    made.request(Upgrade("all", release, monitor=1.0))
    assert made.run_until(lambda: not running(made), 60.0)
    assert operation(made).state == "done"
    data = kept(made)
    assert "hunter2" not in json.dumps(data)
    again = Cluster(configured(made.spec, "-p", "hunter3", PASSWORD="hunter3", LEVEL="info"))
    assert len(read_saved_state(again, data, 0.0, lambda _release: "")) == 1
    expected = replace(V2, args=("-p", "hunter3"), env=(("PASSWORD", "hunter3"), ("COLOUR", "red")))
    assert again.groups["web"].release == expected
    without = Cluster(configured(made.spec, LEVEL="info"))
    assert len(read_saved_state(without, data, 0.0, lambda _release: "")) == 1
    assert dict(without.groups["web"].release.env) == {"COLOUR": "red"}


@pytest.mark.parametrize("data", [{}, {"version": 2}, {"version": 1}, {"version": 1, "operations": [{"id": 1}]}])
def test_what_is_no_memory_changes_nothing(data: Any) -> None:
    made = started(2)
    assert made.cluster is not None
    before = made.cluster.checkpoint()
    with pytest.raises((KeyError, TypeError, ValueError)):
        read_saved_state(made.cluster, data, 0.0, lambda _release: "")
    assert made.cluster.checkpoint() == before
