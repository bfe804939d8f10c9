"""A turn that does not come to an end is a mistake: it is reported, and nothing is lost by it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from cluster_service.core import actions, events, reconcile, turn
from cluster_service.core.cluster import Cluster
from cluster_service.core.requests import Tick
from cluster_service.core.spec import GroupSpec, Release, Spec
from cluster_service.wire.facts import Snapshot

from .stories import started

if TYPE_CHECKING:
    from cluster_service.core.group import Group


@pytest.fixture
def restless(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reconciliation that orders something in each round."""

    def never_done(cluster: Cluster, group: Group, now: float) -> None:
        reconcile.reconcile(cluster, group, now)
        cluster.publish(events.PortOpen("127.0.0.1:8000"))

    monkeypatch.setattr(turn, "reconcile", never_done)


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
        assert at >= 100.0 + turn.TRY_AGAIN
    assert [each for each in cluster.handle(Tick(), 102.0) if isinstance(each, actions.Fault)]


def test_it_fails_loudly_on_a_simulated_machine(request: pytest.FixtureRequest) -> None:
    made = started(1)
    request.getfixturevalue("restless")
    with pytest.raises(AssertionError, match="has not come to an end"):
        made.signal("HUP")
