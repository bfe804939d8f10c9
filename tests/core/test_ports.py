"""A shared socket is closed when nobody uses it any more and nobody is about to."""

from __future__ import annotations

from dataclasses import replace

from cluster_service.core.model.spec import GroupSpec, Release
from cluster_service.core.protocol import event_records
from cluster_service.core.protocol.requests import Restart, Scale, Shutdown, StartGroup
from cluster_service.testing import Program

from .stories import BROKEN, GOOD, operation, started, told, world

OTHER = "127.0.0.1:9000"
FIRST = "127.0.0.1:8000"


def test_a_port_is_told_once_however_many_share_it() -> None:
    made = world(4)
    made.run(10.0)
    assert told(made, event_records.PortOpen) == [event_records.PortOpen(FIRST)]


def test_a_port_outlives_its_workers() -> None:
    made = started(2, replace(GOOD, boot=20.0, ready="told", not_yet=True))
    for process in made.serving():
        made.kernel.kill(process.worker)
    made.run(10.0)
    assert list(made.kernel.held) == [FIRST]
    made.run(60.0)
    assert not told(made, event_records.PortClosed)


def test_a_port_outlives_a_crash_loop() -> None:
    made = started(2)
    made.programs["app"] = BROKEN
    for process in made.serving():
        made.kernel.kill(process.worker)
    made.run(600.0)
    assert list(made.kernel.held) == [FIRST]


def test_a_port_that_a_new_release_does_not_use_is_closed() -> None:
    made = started(2, allow_port_change=True)
    made.programs["app"] = replace(GOOD, addresses=(OTHER,))
    made.request(Restart("all"))
    made.run(10.0)
    assert operation(made).state == "done"
    assert list(made.kernel.held) == [OTHER]
    assert told(made, event_records.PortClosed) == [event_records.PortClosed(FIRST)]


def test_the_port_of_a_group_that_is_gone_is_closed() -> None:
    made = started(1)
    made.programs["more"] = Program(addresses=(OTHER,))
    made.request(StartGroup(GroupSpec("more", 1, Release("script", "more"))))
    made.run(5.0)
    assert set(made.kernel.held) == {FIRST, OTHER}
    made.request(Shutdown("more"))
    made.run(5.0)
    assert set(made.kernel.held) == {FIRST}


def test_a_port_is_closed_by_the_next_master_too() -> None:
    for after in range(1, 40):
        made = started(2)
        made.kill_master(after)
        made.request(Scale("0"))
        made.run(10.0)
        if made.cluster and made.cluster.groups["web"].slots:
            continue  # the wish was lost
        assert not made.kernel.held, made.story()


def test_an_apps_address_is_kept_while_its_release_is_wanted() -> None:
    group = GroupSpec("web", 1, Release("app", "app", binds=(FIRST,)))
    made = started(1)
    made = type(made)(replace(made.spec, groups=(group,)), {"app": Program(ready="told", addresses=(FIRST,))})
    made.run(5.0)
    made.request(Scale("0"))
    made.run(100.0)
    assert set(made.kernel.held) == {FIRST}
