"""A turn that does not come to an end is a mistake: it is reported, and nothing is lost by it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from cluster_service.core.engine import reconcile, step
from cluster_service.core.engine.cluster import Cluster
from cluster_service.core.model.spec import GroupSpec, Release, Spec
from cluster_service.core.protocol import actions, event_records
from cluster_service.core.protocol.requests import Tick
from cluster_service.wire.facts import Snapshot

from .stories import started

if TYPE_CHECKING:
    from cluster_service.core.model.group import Group


@pytest.fixture
def restless(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reconciliation that orders something in each round."""

    def never_done(cluster: Cluster, group: Group, now: float) -> None:
        reconcile.reconcile_group(cluster, group, now)
        cluster.publish(event_records.PortOpen("127.0.0.1:8000"))

    monkeypatch.setattr(step, "reconcile_group", never_done)


@pytest.mark.usefixtures("restless")
def test_it_is_reported_with_what_kept_changing_and_carried_out_all_the_same() -> None:
    cluster = Cluster(Spec("default", (GroupSpec("web", 2, Release("script", "app")),)))
    todo = cluster.handle(Snapshot(1, 4000, 0.0, [], [], "", 0, 1), 100.0)
    (fault,) = [each for each in todo if isinstance(each, actions.Fault)]
    assert "100 rounds" in fault.what
    assert "PortOpen" in fault.what
    assert [each.slot for each in todo if isinstance(each, actions.Start)] == [1, 2]
    for _ in range(10):  # nor is the next turn wanted at once
        at = cluster.deadline()
        assert at is not None
        assert at >= 100.0 + step.RETRY_SECONDS
    assert [each for each in cluster.handle(Tick(), 102.0) if isinstance(each, actions.Fault)]


def test_it_fails_loudly_on_a_simulated_machine(request: pytest.FixtureRequest) -> None:
    made = started(1)
    request.getfixturevalue("restless")
    with pytest.raises(AssertionError, match="did not converge"):
        made.signal("HUP")
