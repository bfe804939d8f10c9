"""What a release and a slot come to: arguments and environment."""

from __future__ import annotations

import pytest

from cluster_service.core.model.spec import GroupSpec, Kind, Release
from cluster_service.core.protocol.actions import Start
from cluster_service.master import launch_plan


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("worker{slot}@%h", "worker3@%h"),
        ("{name}-{group}-{slot}", "shop-jobs-3"),
        ("{{slot}}", "{slot}"),
        ("{{slot}}={slot}", "{slot}=3"),
        ('{"slot": {slot}}', '{"slot": 3}'),
        ("{level} {} {0} {slot!r} {slot:>2} ${slot", "{level} {} {0} {slot!r} {slot:>2} ${slot"),
        ("%({x}i)s {{}} {{a}} { slot } {SLOT}", "%({x}i)s {{}} {{a}} { slot } {SLOT}"),
        ("${slot}", "$3"),
    ],
)
def test_only_three_names_are_filled_in(text: str, found: str) -> None:
    assert launch_plan.filled(text, launch_plan.names("shop", "jobs", 3)) == found


@pytest.mark.parametrize("kind", ["script", "module", "app", "command"])
def test_arguments_and_variables_of_each_worker_have_its_own(kind: Kind) -> None:
    """Two Celery workers of one node name are a mistake of Celery's."""
    release = Release(
        kind, "-m celery" if kind == "module" else "celery", ("-n", "w{slot}@%h"), env=(("NODE", "{group}.{slot}"),),
        env_from_files=(("SECRET", "{slot}"),),
    )  # fmt: skip
    group = GroupSpec("jobs", 2, release)
    for slot in (1, 2):
        start = Start(slot, "jobs", slot, 1, "start")
        order = launch_plan.spawn("shop", start, group, release, "none", {"A": "{slot}"})
        assert order.argv[-2:] == ["-n", f"w{slot}@%h"]
        assert order.env["NODE"] == f"jobs.{slot}"
        assert (order.env["A"], order.env["SECRET"]) == ("{slot}", "{slot}"), "what the settings do not say stays"
