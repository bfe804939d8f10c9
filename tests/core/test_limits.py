"""Limits in their canonical form, and that they are undone with the release that they are part of."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from cluster_service.core.engine.spec_reload import compare_specs
from cluster_service.core.model.spec import (
    ProcessLimits,
    choose_cpus,
    format_cpu_list,
    parse_cpu_list,
    parse_limit,
)
from cluster_service.core.protocol.requests import Reload
from cluster_service.core.readout.saved_state import read_saved_state, write_saved_state
from cluster_service.testing import World

from .stories import GOOD, operation, running, started

if TYPE_CHECKING:
    from cluster_service.core.model.spec import Release, Spec


@pytest.mark.parametrize(
    ("limit", "found"),
    [
        ("core=0", ("core", 0, 0)),
        ("nofile=1024:65536", ("nofile", 1024, 65536)),
        ("as=unlimited", ("as", -1, -1)),
        ("stack=8388608:unlimited", ("stack", 8388608, -1)),
    ],
)
def test_limits_as_setrlimit_has_them(limit: str, found: tuple[str, int, int]) -> None:
    assert parse_limit(limit) == found


@pytest.mark.parametrize(
    ("affinity", "slot", "found"),
    [
        ("0-1,6", 2, [0, 1, 6]),
        ("spread", 1, [2]),
        ("spread", 3, [6]),
        ("spread", 4, [2]),
        ("spread:4-6", 2, [6]),  # 5 is not to be had any more
        ("spread:7", 1, []),
    ],
)
def test_the_processors_of_a_slot(affinity: str, slot: int, found: list[int]) -> None:
    assert choose_cpus(affinity, slot, [2, 4, 6]) == found


@pytest.mark.parametrize("text", ["0", "0-3", "0,2,4-7,9"])
def test_lists_of_processors(text: str) -> None:
    assert format_cpu_list(parse_cpu_list(text)) == text


def with_release(made: World, **release: Any) -> Spec:
    (group,) = made.spec.groups
    return replace(made.spec, groups=(replace(group, release=replace(group.release, **release)),))


def test_a_plan_names_each_limit_and_no_secret() -> None:
    made = started()
    assert made.cluster is not None
    new = with_release(
        made,
        within=ProcessLimits(user="www", nice=5, limits=("core=0", "nofile=9")),
        env_files=("/srv/.env",),
        env_from_files=(("PASSWORD", "hush"),),
    )
    assert {(change.effect, change.text) for change in compare_specs(made.cluster, new)} == {
        ("replace", "env_files: none → /srv/.env"),
        ("replace", "env_files: the values in them have changed"),
        ("replace", "user: none → www"),
        ("replace", "limits: none → core=0 nofile=9"),
        ("replace", "nice: none → 5"),
    }
    assert "hush" not in repr(new)


def test_limits_that_no_worker_can_live_with_are_undone() -> None:
    """What is undone must be all of it: a worker that dies later is started with the limits from before."""
    made = started()
    assert made.cluster is not None
    made.programs["app"] = replace(GOOD, dies_at=0.2)
    made.request(Reload(with_release(made, within=ProcessLimits(limits=("as=1",))), monitor=1.0))
    assert made.run_until(lambda: not running(made), 60.0)
    assert "upgrade web app: undone" in (operation(made).reason or "")
    made.programs["app"] = GOOD
    group = made.cluster.groups["web"]
    assert {group.releases[slot.generation].within for slot in group.slots.values()} == {ProcessLimits()}


def test_what_files_said_is_not_remembered_but_read_again() -> None:
    made = started()
    assert made.cluster is not None
    first = replace(made.spec.groups[0].release, env_files=("/srv/.env",), env_from_files=(("A", "hush"),))
    v2 = replace(first, target="v2")
    group = made.cluster.groups["web"]
    group.spec = replace(group.spec, release=first)
    group.releases[group.promoted], group.past = v2, [replace(first, target="v0"), first]
    kept = json.loads(json.dumps(write_saved_state(made.cluster, 0.0)))
    assert "hush" not in json.dumps(kept)

    def filled(release: Release) -> Release | None:
        return None if release.target == "v0" else replace(release, env_from_files=(("A", "new"),))

    fresh = World(replace(made.spec, groups=(replace(group.spec, release=first),)), made.programs).cluster
    assert fresh is not None
    read_saved_state(fresh, kept, 0.0, lambda _release: "", filled)
    again = fresh.groups["web"]
    assert again.release == replace(v2, env_from_files=(("A", "new"),))
    assert again.past == [replace(first, env_from_files=(("A", "new"),))]
