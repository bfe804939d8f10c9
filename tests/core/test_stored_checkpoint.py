"""A checkpoint and a saved state written by an earlier version must still be read, and must be written the same.

``data/checkpoint.json`` was written by the core as of 30 November 2026, from a simulated service with four groups: one
whose upgrade is being watched, one that is being restarted while it is scaled down, a singleton, and one that keeps
failing. Do not write it again: it stands for the master that is replaced when the service is upgraded.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cluster_service.core.engine.cluster import Cluster
from cluster_service.core.model.spec import Spec
from cluster_service.core.protocol import actions
from cluster_service.core.readout import saved_state, serializers
from cluster_service.core.readout.serializers import status_line
from cluster_service.wire.facts import FACTS

DATA: dict[str, Any] = json.loads((Path(__file__).parent / "data" / "checkpoint.json").read_text(encoding="utf-8"))
NOW: float = DATA["now"]


def restored() -> Cluster:
    return Cluster.restore(Spec("other", ()), DATA["checkpoint"])


def plain(value: object) -> Any:
    return json.loads(json.dumps(value))


def test_a_stored_checkpoint_is_read_and_shown_as_before() -> None:
    cluster = restored()
    shown = {
        "workers": serializers.worker_rows(cluster, NOW),
        "health": serializers.health_summary(cluster),
        "groups": serializers.group_summaries(cluster),
        "operations": [serializers.operation_row(cluster, each, NOW, 0.0) for each in cluster.operations],
        "status": status_line(cluster),
        "saved_state": saved_state.write_saved_state(cluster, 0.0),
    }
    assert plain(shown) == {name: DATA[name] for name in shown}


def test_a_stored_checkpoint_is_written_with_the_same_fields_and_values() -> None:
    written = plain(restored().checkpoint())  # it may have more fields
    assert {name: written[name] for name in DATA["checkpoint"]} == DATA["checkpoint"]


def test_a_stored_checkpoint_holds_an_upgrade_a_restart_and_a_failing_slot() -> None:
    groups = {group["spec"]["name"]: group for group in DATA["checkpoint"]["groups"]}
    assert groups["web"]["rollout"]["stage"] == "canary"
    assert groups["web"]["rollout"]["due"] is not None
    assert groups["bad"]["slots"][0]["broken"]
    assert {each["state"] for each in DATA["checkpoint"]["workers"]} == {"serving", "draining"}
    operations = [(each["kind"], each["state"]) for each in DATA["checkpoint"]["operations"]]
    assert {("upgrade", "running"), ("restart", "running"), ("reload", "done")} <= set(operations)


def test_a_core_restored_from_a_stored_checkpoint_continues_the_upgrade_and_the_restart() -> None:
    cluster = restored()
    todo = cluster.handle(FACTS.from_json(DATA["guardian"]), NOW)
    assert not [each for each in todo if isinstance(each, (actions.Start, actions.Stop, actions.Kill))]
    assert [each.command for each in cluster.running_operations()] == [
        each["command"] for each in DATA["operations"] if each["state"] == "running"
    ]


def test_a_stored_saved_state_is_read_by_a_new_service() -> None:
    cluster = Cluster(Spec.from_json(DATA["checkpoint"]["spec"]))
    (said,) = saved_state.read_saved_state(cluster, DATA["saved_state"], 0.0, lambda _release: "")
    assert said == "web: continuing with the promoted release, new in /srv/app"
    assert [each.command for each in cluster.operations] == [each["command"] for each in DATA["operations"]]
    assert [each.target for each in cluster.groups["web"].past] == ["app"]
