"""Which slots an operator means."""

from __future__ import annotations

import pytest

from cluster_service.core.model.group import Group
from cluster_service.core.model.spec import GroupSpec, Release
from cluster_service.core.model.worker import Worker
from cluster_service.core.protocol.requests import Rejected
from cluster_service.core.rules.selectors import select_slots


def group(name: str, *slots: int) -> Group:
    made = Group.new(GroupSpec(name, max(slots, default=0), Release("script", f"/srv/{name}.py")))
    for number in list(made.slots):
        if number not in slots:
            del made.slots[number]
    return made


GROUPS = {"web": group("web", 1, 2, 3), "jobs": group("jobs", 1, 7), "idle": group("idle")}

WORKERS = [
    Worker(1, "web", 1, 1, "start", 0.0, state="serving", pid=4711),
    Worker(2, "web", 2, 1, "start", 0.0, state="starting", pid=2),  # a pid that is a slot's number too
    Worker(3, "web", 3, 1, "start", 0.0, state="draining", pid=4713),
    Worker(4, "web", 3, 2, "restart", 0.0, state="serving", pid=4714),
    Worker(5, "web", 9, 1, "start", 0.0, state="serving", pid=4715),  # its slot is not wanted any more
    Worker(6, "web", 1, 1, "start", 0.0, state="gone", pid=4716),
]


@pytest.mark.parametrize(
    ("selector", "slots"),
    [
        ("all", [("web", 1), ("web", 2), ("web", 3), ("jobs", 1), ("jobs", 7)]),
        ("web", [("web", 1), ("web", 2), ("web", 3)]),
        ("idle", []),
        ("web.2", [("web", 2)]),
        ("jobs.7", [("jobs", 7)]),
        ("3", [("web", 3)]),
        ("7", [("jobs", 7)]),
        ("4711", [("web", 1)]),
        ("4714", [("web", 3)]),
        ("pid:4711", [("web", 1)]),
        ("2", [("web", 2)]),
        ("pid:2", [("web", 2)]),
    ],
)
def test_what_is_meant(selector: str, slots: list[tuple[str, int]]) -> None:
    assert select_slots(selector, GROUPS, WORKERS) == slots


@pytest.mark.parametrize(
    ("selector", "code", "says"),
    [
        ("1", "bad_request", "several groups"),
        ("web.4", "not_found", "no slot 4"),
        ("99999", "not_found", "no worker with pid 99999"),
        ("pid:99999", "not_found", "no worker with pid 99999"),
        ("4713", "not_found", "already stopping"),
        ("4715", "not_found", "already stopping"),
        ("4716", "not_found", "no worker with pid 4716"),
        ("wbe", "not_found", "no group, slot or worker 'wbe'"),
        ("", "not_found", "no group, slot or worker"),
        ("web.", "not_found", "'web.'"),
        ("web.x", "not_found", "'web.x'"),
        ("-1", "not_found", "'-1'"),
        ("pid:x", "not_found", "'pid:x'"),
        ("ALL", "not_found", "'ALL'"),
    ],
)
def test_what_is_not_meant(selector: str, code: str, says: str) -> None:
    with pytest.raises(Rejected, match=says) as caught:
        select_slots(selector, GROUPS, WORKERS)
    assert caught.value.code == code


def test_the_nearest_name_is_suggested() -> None:
    with pytest.raises(Rejected) as caught:
        select_slots("wbe", GROUPS, WORKERS)
    assert caught.value.hint == "did you mean web?"


def test_the_choices_are_named_where_a_slot_is_ambiguous() -> None:
    with pytest.raises(Rejected) as caught:
        select_slots("1", GROUPS, WORKERS)
    assert caught.value.hint == "write web.1 or jobs.1"
