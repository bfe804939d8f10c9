"""The life of a worker."""

from __future__ import annotations

from typing import Any

import pytest

from cluster_service.core.model.worker import LEAVING, PUBLIC_STATES, STAYING, TRANSITIONS, Worker
from cluster_service.core.rules.exit_causes import EARLY_EXIT_HINT, describe_exit, format_duration
from cluster_service.core.rules.liveness import readiness

EVENTS = ("spawned", "spawn_failed", "ready", "stop", "kill", "exited", "lost")

IMPOSSIBLE: dict[str, dict[str, str]] = {
    "ordered": {
        "ready": "it has no process that could be ready",
        "stop": "there is nothing to signal yet: the stop waits for the answer to its spawn",
        "kill": "it was not asked to end",
    },
    "starting": {
        "spawned": "a number is spawned once",
        "spawn_failed": "it was spawned",
        "kill": "it is asked to end first: nobody is killed without an announced deadline",
    },
    "serving": {
        "spawned": "a number is spawned once",
        "spawn_failed": "it was spawned",
        "ready": "it is ready",
        "kill": "it is asked to end first",
    },
    "draining": {
        "spawned": "a number is spawned once",
        "spawn_failed": "it was spawned",
        "ready": "it was asked to end: it never serves again",
        "stop": "it was asked",
    },
    "stopping": {
        "spawned": "a number is spawned once",
        "spawn_failed": "it was spawned",
        "ready": "it was asked to end: it never serves",
        "stop": "it was asked",
    },
    "killing": {
        "spawned": "a number is spawned once",
        "spawn_failed": "it was spawned",
        "ready": "SIGKILL is on its way",
        "stop": "SIGKILL is on its way",
        "kill": "SIGKILL is on its way",
    },
    "gone": dict.fromkeys(EVENTS, "nothing happens to what does not exist"),
}


def worker(**fields: Any) -> Worker:
    usual = {"number": 7, "group": "web", "slot": 2, "generation": 1, "reason": "start", "since": 10.0}
    return Worker(**{**usual, **fields})


@pytest.mark.parametrize("state", sorted(TRANSITIONS))
@pytest.mark.parametrize("event", EVENTS)
def test_every_event_in_every_state_is_decided(state: str, event: str) -> None:
    possible = event in TRANSITIONS[state]
    assert possible != (event in IMPOSSIBLE[state])
    assert worker(state=state).can(event) == possible
    if not possible:
        with pytest.raises(KeyError):
            worker(state=state).move(event)


def test_the_table_speaks_of_known_states_and_events_only() -> None:
    assert {event for row in TRANSITIONS.values() for event in row} == set(EVENTS)
    assert {state for row in TRANSITIONS.values() for state in row.values()} <= set(TRANSITIONS)
    assert set(TRANSITIONS) == STAYING | LEAVING | {"gone"}
    assert not STAYING & LEAVING


def reachable(state: str) -> set[str]:
    found, todo = set[str](), [state]
    while todo:
        for following in TRANSITIONS[todo.pop()].values():
            if following not in found:
                found.add(following)
                todo.append(following)
    return found


@pytest.mark.parametrize("state", sorted(set(TRANSITIONS) - {"gone"}))
def test_every_life_ends_and_none_comes_back(state: str) -> None:
    assert "gone" in reachable(state)
    assert state not in reachable(state)
    assert {event for event, to in TRANSITIONS[state].items() if to == "gone"} >= {"exited", "lost"}


@pytest.mark.parametrize("state", sorted(LEAVING))
def test_who_was_asked_to_end_never_serves_again(state: str) -> None:
    assert not reachable(state) & STAYING


def test_only_who_was_asked_to_end_is_killed() -> None:
    assert {state for state, row in TRANSITIONS.items() if "kill" in row} == {"draining", "stopping"}


SHOWN_STATES = {"starting", "serving", "draining", "stopping"}


@pytest.mark.parametrize("state", sorted(set(TRANSITIONS) - {"gone"}))
def test_the_public_interface_knows_four_states(state: str) -> None:
    assert worker(state=state).public_state in SHOWN_STATES
    assert set(PUBLIC_STATES.values()) <= SHOWN_STATES


def test_a_readable_repr() -> None:
    assert repr(worker(pid=4711, state="serving")) == "<Worker 7 web.2 pid 4711 generation 1 serving>"


# Readiness: told, else listen, else notify, else alive.

ADDRESS = ["127.0.0.1:8000"]


@pytest.mark.parametrize(
    ("seen", "alive_for", "by"),
    [
        ({}, 0.0, None),
        ({}, 4.9, None),
        ({}, 5.0, "alive"),
        ({"notified": True}, 0.0, "notify"),
        ({"notified": True}, 99.0, "notify"),
        ({"listening": ADDRESS}, 0.0, "listen"),
        ({"listening": ADDRESS, "notified": True}, 99.0, "listen"),
        ({"told": True}, 0.0, "told"),
        ({"told": True, "listening": ADDRESS, "notified": True}, 99.0, "told"),
        ({"told": False}, 0.0, None),
        ({"told": False}, 1e6, None),
        ({"told": False, "listening": ADDRESS}, 99.0, None),
        ({"told": False, "notified": True}, 99.0, None),
        ({"told": False, "listening": ADDRESS, "notified": True}, 1e6, None),
    ],
)
def test_how_a_worker_is_ready(seen: dict[str, Any], alive_for: float, by: str | None) -> None:
    assert readiness(worker(**seen), only_told=False, ready_after=5.0, now=10.0 + alive_for) == by


@pytest.mark.parametrize(
    ("seen", "by"),
    [
        ({}, None),
        ({"listening": ADDRESS}, None),
        ({"notified": True}, None),
        ({"told": False}, None),
        ({"told": True}, "told"),
    ],
)
def test_an_app_is_ready_only_when_its_runtime_tells(seen: dict[str, Any], by: str | None) -> None:
    assert readiness(worker(**seen), only_told=True, ready_after=5.0, now=1e6) == by


def test_being_alive_may_be_no_sign_at_all() -> None:
    assert readiness(worker(), only_told=False, ready_after=None, now=1e6) is None
    assert readiness(worker(listening=ADDRESS), only_told=False, ready_after=None, now=1e6) == "listen"


# Why it is gone, in a sentence.


@pytest.mark.parametrize(
    ("fields", "lines", "sentence"),
    [
        ({"code": 1}, [], "exited with code 1 before it was ready"),
        ({"code": 0}, [], f"exited with code 0 before it was ready{EARLY_EXIT_HINT}"),
        ({"code": 0}, ["done"], f"exited with code 0 before it was ready{EARLY_EXIT_HINT}: done"),
        ({"code": 0, "ready_at": 40.0}, [], "exited with code 0 after serving for 60 s"),
        ({"code": 1}, ["Traceback …", "ValueError: no", ""], "exited with code 1 before it was ready: ValueError: no"),
        ({"signal": 11}, [], "was killed by SIGSEGV before it was ready"),
        ({"signal": 40}, [], "was killed by signal 40 before it was ready"),
        ({"signal": 9, "ready_at": 95.0}, ["listens on :80"], "was killed by SIGKILL after serving for 5.0 s"),
        ({"code": 3, "ready_at": 40.0}, ["bye"], "exited with code 3 after serving for 60 s: bye"),
        ({"code": 9, "ready_at": 40.0}, ["INFO:     x", "[INFO] y"], "exited with code 9 after serving for 60 s"),
        ({"code": 9}, ["no disk", "INFO:     bye"], "exited with code 9 before it was ready: no disk"),
        ({}, [], "disappeared before it was ready"),
        ({"verdict": "was not ready in 60 s", "signal": 9}, [], "was not ready in 60 s"),
        ({"code": 1, "bind_error": "80 is taken"}, ["x"], "exited with code 1 before it was ready: 80 is taken"),
        ({"code": 0, "ready_at": 40.0, "stop_reason": "restart"}, ["bye"], "exited with code 0 after serving for 60 s"),
    ],
)
def test_the_cause_of_an_end(fields: dict[str, Any], lines: list[str], sentence: str) -> None:
    assert describe_exit(worker(**fields), lines, 100.0) == sentence


@pytest.mark.parametrize(
    ("duration", "text"),
    [
        (0.0, "0.0 s"), (0.25, "0.2 s"), (9.94, "9.9 s"), (10, "10 s"), (119, "119 s"), (120, "2 min"),
        (7100, "118 min"), (7200, "2 h"), (86400, "24 h"),
    ],
)  # fmt: skip
def test_durations_in_sentences(duration: float, text: str) -> None:
    assert format_duration(duration) == text
