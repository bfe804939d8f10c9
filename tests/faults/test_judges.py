"""The fault machine's judges: each finds what it is there to find, and lets pass what is to be let pass."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from .events import Watch
from .excuses import Accounts, ShutDown, clients_of

if TYPE_CHECKING:
    from pathlib import Path

ROWS = [{"pid": 10, "group": "web", "slot": 1, "state": "serving"}]
STARTED = [
    {"event": "worker_start", "group": "web", "slot": 1, "pid": 11},
    {"event": "worker_ready", "group": "web", "slot": 1, "pid": 11},
]


def hung(*stacks: str) -> dict[str, Any]:
    return {"event": "worker_hung", "group": "web", "slot": 1, "pid": 10, "detail": "hangs", "stacks": list(stacks)}


def stop(reason: str, timeout: float = 5.0) -> dict[str, Any]:
    return {"event": "worker_stop", "group": "web", "slot": 1, "pid": 10, "reason": reason, "timeout_s": timeout}


def kill(after: float) -> dict[str, Any]:
    return {"event": "worker_kill", "group": "web", "slot": 1, "pid": 10, "reason": "hang", "seconds": after}


def judged(events: list[dict[str, Any]], missing: int = 0) -> list[str]:
    """The promises that *events* break. *missing*: how many were missed before the last."""
    found: list[str] = []
    watch = Watch(lambda promise, _sentence: found.append(promise))
    watch.take({"id": 1, "event": "master_start"})
    watch.look(ROWS)
    for number, event in enumerate(events):
        more = missing if event is events[-1] else 0
        watch.take({"id": 2 + number + more, "moment": event.get("seconds", 0.0), **event})
    return found


@pytest.mark.parametrize(
    ("events", "broken"),
    [
        ([stop("restart")], ["2 ready-first"]),
        ([STARTED[0], stop("upgrade")], ["2 ready-first"]),
        ([*STARTED, stop("restart")], []),
        ([stop("scale")], []),
        ([stop("hang")], []),
        ([kill(0)], ["5 deadlines"]),
        ([stop("hang"), kill(3)], ["5 deadlines"]),
        ([stop("hang"), kill(5)], []),
        ([hung('File "/v1/app.py", line 5 in answer')], ["hangs"]),
        ([hung('File "/v1/levers.py", line 46 in hang', 'File "/v1/app.py", line 5 in answer')], []),
        ([hung()], []),
    ],
)
def test_what_events_give_away(events: list[dict[str, Any]], broken: list[str]) -> None:
    assert judged(events) == broken


def test_from_half_the_truth_nothing_is_concluded() -> None:
    assert judged([stop("restart")], missing=1) == []


FAILURE = {
    "at": 9.0,
    "mode": "new",
    "to": 80,
    "reason": "before the answer: reset",
    "port": 5000,
    "opened": 4.0,
    "said": "",
}


@pytest.mark.parametrize(
    ("held", "failure", "excused"),
    [
        ({}, {}, True),
        ({"ports": [5001]}, {}, False),
        ({"at": 3.0}, {}, False),  # the connection came later: the port was another's then
        ({"at": 9.5}, {}, False),  # it had failed before
        ({"withdrawn": True}, {}, False),
        ({}, {"reason": "status 500", "said": "11 v3"}, True),
        ({"ports": []}, {"reason": "status 500", "said": "11 v3"}, True),
        ({"ports": []}, {"reason": "status 500", "said": "11 v2"}, False),
    ],
)
def test_only_what_a_hurt_worker_held_is_excused(
    tmp_path: Path, held: dict[str, Any], failure: dict[str, Any], excused: bool
) -> None:
    accounts = Accounts(tmp_path / "ledger", tmp_path / "trace", bad={"v3"})
    (tmp_path / "ledger").write_text(
        json.dumps({"at": 5.0, "pid": 11, "deed": "exits", "ports": [5000], **held}) + "\n"
    )
    (tmp_path / "trace").write_text(json.dumps({**FAILURE, **failure}) + "\n")
    assert bool(accounts.unexcused()) != excused
    assert sum(accounts.excused.values()) == excused
    assert accounts.unexcused() == [], "each is judged once"


def test_a_refused_connection_is_never_excused(tmp_path: Path) -> None:
    accounts = Accounts(tmp_path / "ledger", tmp_path / "trace")
    (tmp_path / "ledger").write_text(json.dumps({"at": 5.0, "pid": 11, "deed": "exits", "ports": [5000]}) + "\n")
    refused = {"at": 9.0, "mode": "new", "to": 80, "reason": "connect: refused"}
    (tmp_path / "trace").write_text(json.dumps(refused) + "\n")
    assert accounts.unexcused() == [refused]


@pytest.mark.parametrize(
    ("failure", "excused"),
    [
        ({}, True),  # it waited in the queue
        ({"port": None, "at": 5.5}, True),  # refused
        ({"at": 4.5}, False),  # it had failed before
        ({"opened": 6.5}, False),  # it came after the port accepted again
        ({"to": 81}, False),
        ({"port": 5001}, False),  # a worker held it
    ],
)
def test_what_a_listener_that_was_shut_down_excuses(tmp_path: Path, failure: dict[str, Any], excused: bool) -> None:
    accounts = Accounts(tmp_path / "ledger", tmp_path / "trace")
    accounts.shut_down.append(ShutDown(at=5.0, to=80, held=[5001], until=6.0))
    line = {**FAILURE, "at": 7.0, **failure}
    if line["port"] is None:
        del line["port"], line["opened"]
    (tmp_path / "trace").write_text(json.dumps(line) + "\n")
    assert bool(accounts.unexcused()) != excused
    assert sum(accounts.excused.values()) == excused


HOLDER = """
import socket, sys
server = socket.create_server(("127.0.0.1", 0))
print(server.getsockname()[1], flush=True)
held = server.accept()
print("held", flush=True)
sys.stdin.read()
"""


def test_what_a_stopped_process_holds_is_read_from_the_kernel(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        with socket.create_connection(("127.0.0.1", port)) as first:
            assert process.stdout.readline() == "held\n"
            with socket.create_connection(("127.0.0.1", port)):  # waits in the queue: nobody holds it
                held = Accounts(tmp_path / "ledger", tmp_path / "trace").stop(process.pid, "kill worker")
                assert held.ports == [first.getsockname()[1]] == clients_of(process.pid)
                os.kill(process.pid, signal.SIGKILL)
