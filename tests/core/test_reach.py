"""A worker that clients cannot reach is not ready: it does not listen, or its port does not accept connections."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from cluster_service.core.model.spec import GroupSpec, Release
from cluster_service.core.protocol import event_records
from cluster_service.core.protocol.requests import Restart, StartGroup, Upgrade
from cluster_service.core.readout import serializers
from cluster_service.testing import Program, World
from cluster_service.wire import facts

from .stories import GOOD, generations, operation, policy, started, told, world

PORT = "127.0.0.1:8000"
SLEEPER = Program(boot=0.5, ready="alive", addresses=())
LATE = Program(boot=20.0)
TELLS = Program(boot=0.5, ready="told", addresses=())


def health(made: World) -> dict[str, Any]:
    assert made.cluster is not None
    return serializers.health_summary(made.cluster)


def rows(made: World) -> list[dict[str, Any]]:
    assert made.cluster is not None
    return serializers.worker_rows(made.cluster, made.clock.now)


def hear(made: World, fact: Any) -> None:
    """Let the guardian send *fact*."""
    made.kernel._tell(fact)
    made.run(0.1)


# Whether a worker should listen.


@pytest.mark.parametrize(
    ("program", "expect_port", "ready"),
    [
        (SLEEPER, None, True),
        (SLEEPER, False, True),
        (SLEEPER, True, False),
        (TELLS, True, False),  # whatever it says
        (TELLS, None, True),
        (GOOD, True, True),
        (GOOD, 8000, True),
        (GOOD, 8001, False),
        (replace(GOOD, addresses=(PORT, "[::]:8001")), 8001, True),
        (replace(GOOD, addresses=("udp:127.0.0.1:53",)), 53, True),
    ],
)
def test_a_worker_that_should_listen_is_ready_once_it_does(
    program: Program, expect_port: bool | int | None, *, ready: bool
) -> None:
    made = world(1, program, expect_port=expect_port, ready_timeout=20.0, restart=policy(auto_restart=False))
    made.run(19.0)
    assert (health(made)["serving"] == 1) is ready
    made.run(5.0)
    if not ready:
        port = "any port" if expect_port is True else f"port {expect_port}"
        assert operation(made).reason == f"web.1 was not ready within 20 s: it does not listen on {port}"


@pytest.mark.parametrize(("share", "at_10_s"), [("seccomp", 0), ("auto", 0), ("inherit", 1), ("none", 1)])
def test_a_group_with_an_address_to_bind_should_listen_where_that_is_seen(share: Any, at_10_s: int) -> None:
    release = Release("command", "app", binds=(PORT,), share=share)
    made = world(1, LATE)
    made = World(replace(made.spec, groups=(GroupSpec("web", 1, release),)), {"app": LATE})
    made.run(10.0)
    assert health(made)["serving"] == at_10_s
    made.run(20.0)
    assert health(made)["serving"] == 1


def test_a_worker_that_listens_no_more_where_its_predecessor_did_is_not_ready() -> None:
    made = started(2)
    made.programs["app"] = TELLS
    made.request(Restart("web.1"))
    made.run(30.0)
    assert health(made) == {
        "status": "degraded",
        "serving": 1,
        "wanted": 2,
        "problems": [{"group": "web", "slot": 1, "state": "serving", "detail": "does not listen on any port"}],
    }
    first, second = rows(made)
    assert (first["state"], first["not_listening"]) == ("serving", True)
    assert "not_listening" not in second


@pytest.mark.parametrize(
    ("program", "settings", "shown"),
    [
        (SLEEPER, {}, True),
        (SLEEPER, {"expect_port": False}, False),
        (TELLS, {}, False),  # it says that it is ready
        (GOOD, {}, False),
    ],
)
def test_a_worker_that_is_ready_only_by_living_is_shown_as_not_listening(
    program: Program, settings: dict[str, Any], *, shown: bool
) -> None:
    made = world(2, program, **settings)
    made.run(10.0)
    assert [(row["state"], row.get("not_listening", False)) for row in rows(made)] == [("serving", shown)] * 2
    assert "detail" not in rows(made)[0]
    assert health(made)["status"] == "ok"


def test_a_late_listener_is_shown_as_listening_from_then_on() -> None:
    made = world(1, LATE)
    made.run(10.0)
    assert rows(made)[0]["not_listening"]
    made.run(20.0)
    assert "not_listening" not in rows(made)[0]


def test_what_cannot_be_seen_is_not_shown() -> None:
    group = GroupSpec("web", 1, Release("command", "app", share="none"))
    made = World(replace(world(1).spec, groups=(group,)), {"app": SLEEPER})
    made.run(10.0)
    assert "not_listening" not in rows(made)[0]


def test_nothing_is_expected_after_a_change_of_ports_that_was_allowed() -> None:
    made = started(2, allow_port_change=True)
    made.programs["app"] = TELLS
    made.request(Restart("all"))
    made.run(30.0)
    assert health(made)["status"] == "ok"


def test_a_dependency_that_does_not_listen_is_waited_for() -> None:
    made = started(1)
    made.programs["app"] = TELLS
    made.request(Restart("all"))
    made.run(30.0)
    made.programs["more"] = SLEEPER
    made.request(StartGroup(GroupSpec("more", 1, Release("script", "more"), depends_on=(("web", "ready"),))))
    made.run(30.0)
    assert rows(made)[-1]["waits_for"] == ["web"]


# How long a worker that says nothing must live.


@pytest.mark.parametrize(
    ("settings", "first", "next_"),
    [
        ({}, 5.0, 1.0),
        ({"expect_port": False}, 1.0, 1.0),
        ({"ready_after": 3.0}, 3.0, 3.0),
        ({"ready_after": 3.0, "expect_port": False}, 3.0, 3.0),
    ],
)
def test_a_worker_known_not_to_listen_is_ready_after_a_second(
    settings: dict[str, Any], first: float, next_: float
) -> None:
    made = world(1, SLEEPER, **settings)
    made.run(10.0)
    made.request(Restart("all"))
    made.run(10.0)
    assert [round(event.after_s, 1) for event in told(made, event_records.WorkerReady)] == [first, next_]


def test_other_code_is_not_known_not_to_listen() -> None:
    made = started(1, SLEEPER)
    made.programs["v2"] = SLEEPER
    made.request(Upgrade("all", Release("script", "v2"), monitor=10.0))
    made.run(30.0)
    assert [round(event.after_s, 1) for event in told(made, event_records.WorkerReady)] == [5.0]


# A port that does not accept.


def test_a_port_that_does_not_accept_is_no_service() -> None:
    made = started(2)
    hear(made, facts.ListenerState(PORT, "it was shut down"))
    assert health(made)["status"] == "down"
    assert health(made)["problems"][0]["detail"] == f"{PORT} does not accept connections: it was shut down"
    hear(made, facts.ListenerState(PORT))
    assert health(made)["status"] == "ok"


def test_events_tell_of_a_port_that_was_shut_down() -> None:
    made = started(2)
    for fact in (
        facts.ListenerState(PORT, revived=True),
        facts.ListenerState(PORT, "too often"),
        facts.ListenerState(PORT, "no memory"),
        facts.ListenerState(PORT),
        facts.ListenerState(PORT),
    ):
        hear(made, fact)
    assert told(made, event_records.PortShutdown) == [
        event_records.PortShutdown(PORT, listening=True),
        event_records.PortShutdown(PORT, listening=False, detail="too often"),
        event_records.PortShutdown(PORT, listening=True),
    ]


def test_an_upgrade_that_is_watched_is_undone_when_the_port_does_not_accept() -> None:
    for seconds in (2.0, 12.0):  # canary, bake
        made = started(2, monitor=10.0)
        made.programs["v2"] = GOOD
        made.request(Upgrade("all", Release("script", "v2"), monitor=10.0))
        made.run(seconds)
        hear(made, facts.ListenerState(PORT, "it was shut down"))
        hear(made, facts.ListenerState(PORT))
        made.run(20.0)
        assert operation(made).state == "undone"
        assert operation(made).reason == f"{PORT} does not accept connections: it was shut down"
        assert generations(made) == [1, 1]


def test_a_new_master_learns_it_from_the_guardian() -> None:
    made = started(2)
    made.kernel.held[PORT].problem = "it was shut down"
    made.kill_master()
    made.run(5.0)
    assert health(made)["status"] == "down"


def test_a_worker_that_lost_its_port_is_replaced() -> None:
    made = started(2)
    lost = made.serving()[0].worker
    hear(made, facts.Unlistened(lost, PORT))
    made.run(10.0)
    assert lost not in [process.worker for process in made.serving()]
    assert len(made.serving()) == 2
    (recycled,) = told(made, event_records.WorkerRecycle)
    assert recycled.detail == f"it lost {PORT}: another process had shut the socket down"
    assert not [exit_ for exit_ in told(made, event_records.WorkerExit) if exit_.reason == "failure"]


def test_a_worker_of_a_release_on_trial_that_lost_its_port_is_not_blamed() -> None:
    made = started(2, monitor=10.0)
    made.programs["v2"] = GOOD
    made.request(Upgrade("all", Release("script", "v2"), monitor=10.0))
    made.run(12.0)
    for process in made.serving():
        hear(made, facts.Unlistened(process.worker, PORT))
    made.run(60.0)
    assert operation(made).state == "done"
    assert health(made)["status"] == "ok"
