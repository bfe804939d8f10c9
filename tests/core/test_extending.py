"""A worker may ask for more time to end, but not without limit."""

from __future__ import annotations

import pytest

from cluster_service.core.engine.cluster import Cluster
from cluster_service.core.engine.reconcile import MAX_STOP_EXTENSION
from cluster_service.core.model.spec import GroupSpec, Release, Spec
from cluster_service.core.protocol import actions
from cluster_service.core.protocol.requests import Tick
from cluster_service.wire import facts

TIMEOUT = 20.0


@pytest.mark.parametrize(
    ("asks", "ends", "warned"),
    [
        ([], TIMEOUT, 0),
        ([(5.0, 30.0)], 35.0, 0),
        ([(5.0, 1.0)], TIMEOUT, 0),
        ([(float(at), 30.0) for at in range(1, 400)], MAX_STOP_EXTENSION * TIMEOUT, 1),
        ([(1.0, 86400.0), (2.0, 86400.0)], MAX_STOP_EXTENSION * TIMEOUT, 1),
    ],
    ids=["never", "once", "for less", "again and again", "for very long"],
)
def test_how_long_a_worker_may_take_to_end(asks: list[tuple[float, float]], ends: float, warned: int) -> None:
    group = GroupSpec("web", 1, Release("command", "/bin/sleep", cwd="/"), stop_timeout=TIMEOUT)
    cluster = Cluster(Spec("x", (group,)))
    cluster.handle(facts.Snapshot(1, 1, 0.0, [], [], "", 0, 1), 0.0)
    cluster.handle(facts.Spawned(1, 101), 0.0)
    cluster.handle(facts.Ready(1), 0.0)
    todo = cluster.handle(facts.Signalled("TERM"), 0.0)
    assert any(isinstance(action, actions.Stop) for action in todo)
    now, said, wanted = 0.0, 0, dict(asks)
    while not any(isinstance(action, actions.Kill) for action in todo):
        now += 1.0
        todo = []
        if now in wanted:
            fields = {"EXTEND_TIMEOUT_USEC": str(int(wanted[now] * 1e6))}
            todo += cluster.handle(facts.Notified(1, fields), now)
        todo += cluster.handle(Tick(), now)
        said += sum(isinstance(action, actions.Warn) for action in todo)
        assert now <= ends
    assert now == ends
    assert said == warned
    assert cluster.workers[1].state == "killing"
