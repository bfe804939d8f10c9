"""A service as process 1 of a container, with what such may lack. Skipped where namespaces cannot be had."""

from __future__ import annotations

import signal
import subprocess
import sys
from http.client import HTTPConnection
from typing import TYPE_CHECKING

import pytest

from tests.tools.ask import http, http_pid
from tests.tools.container import Container
from tests.tools.ports import free_port
from tests.tools.processes import table
from tests.tools.service import DEADLINE

if TYPE_CHECKING:
    from collections.abc import Mapping

UID = 54321
"""Of nobody: there is no such line in /etc/passwd."""


def status(port: int, path: str, headers: Mapping[str, str] | None = None) -> int:
    """The status of the answer to GET *path*."""
    connection = HTTPConnection("127.0.0.1", port, timeout=DEADLINE)
    try:
        connection.request("GET", path, headers=dict(headers or {}))
        return connection.getresponse().status
    finally:
        connection.close()


def zombies(parent: int) -> list[int]:
    return [pid for pid, entry in table().items() if entry.parent == parent and entry.state == "Z"]


def test_process_1_reaps_strangers_and_ends_with_the_right_code() -> None:
    port = free_port()
    with Container("-w", "1", "--ready-after", "60s", "orphans.py", str(port)) as service:
        service.until_event("worker_ready")
        for _ in range(3):
            assert int(http(("127.0.0.1", port))) > 1
        inside = ["nsenter", "-t", str(service.pid), "-p", "-m", "sh", "-c", "(sh -c 'exit 7' &) ; exit 0"]
        subprocess.run(inside, check=True)  # as docker exec does
        assert service.cli("restart", "all").code == 0
        assert zombies(service.pid) == []
        assert service.json("info")["pid"] == 1
        assert service.stop() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_signals_are_heard(number: int) -> None:
    with Container("-w", "1", "--ready-after", "60s", "http_server.py", str(free_port())) as service:
        service.until_event("worker_ready")
        service.signal(number)
        assert service.ended() == 0


def test_a_start_that_cannot_be_is_told_by_the_code() -> None:
    with Container("nowhere.py") as service:
        assert service.ended() == 2
    give_up = ["--give-up", "all-broken", "--restarts-per-minute", "1", "-w", "1"]
    with Container(*give_up, "--", "sh", "-c", "exit 3") as service:
        assert service.ended() == 69


def test_a_signal_is_heard_however_early_it_comes() -> None:
    """Process 1 would not hear of a signal that has no handler yet: it waits until there is one."""
    program = ["sh", "-c", 'echo $$; exec "$@"', "sh", sys.executable, "-c", EARLY]
    with Container("http_server.py", str(free_port()), program=program) as service:
        assert service.ended() == 0


EARLY = """
import os, signal, sys
from cluster_service.cli import start_service as starting
from cluster_service.cli.command_line import run
real = starting._start
def late(*arguments, **more):
    os.kill(1, signal.SIGTERM)
    return real(*arguments, **more)
starting._start = late
sys.exit(run(["start", "--name", "test", "-w", "1", *sys.argv[1:]]))
"""


POOR = {
    "a read-only root": {"poor": True},
    "another user": {"uid": UID},
    "no seccomp": {"seccomp": False},
    "nowhere to write": {"poor": True, "keep": False},
    "all of it": {"poor": True, "keep": False, "uid": UID, "seccomp": False},
}


@pytest.mark.parametrize("poor", POOR.values(), ids=POOR)
def test_it_serves_in_poor_surroundings(poor: dict[str, bool | int]) -> None:
    port, probe = free_port(), free_port()
    app = ["--bind", f"127.0.0.1:{port}", "asgi_pid:app"]
    with Container("-w", "2", "--probes", f":{probe}", *app, **poor) as service:  # type: ignore[arg-type]
        service.until_logged("web.1 (pid")
        service.until(lambda: service.log.count("is serving") >= 2, "two workers")
        assert http_pid(("127.0.0.1", port)) > 1
        assert (status(probe, "/live"), status(probe, "/ready")) == (200, 200)
        if poor.get("keep", True):
            assert service.json("health")["status"] == "ok"
            assert service.cli("restart", "all").code == 0
        service.signal(signal.SIGHUP)
        service.until(lambda: service.log.count("is serving") >= 4, "two more workers")
        assert http_pid(("127.0.0.1", port)) > 1
        log = service.log
        assert service.stop() == 0
    assert log.count("ports are shared in Python only") == (not poor.get("seccomp", True)), log
    assert log.count("runs without a control socket") == (not poor.get("keep", True)), log
    assert "Traceback" not in log
    assert log.lower().count("warning") == (not poor.get("keep", True))


def test_what_probes_are_answered_through_a_life() -> None:
    port, probe = free_port(), free_port()
    start = ["--shutdown-delay", "60s", "--probes", f"0.0.0.0:{probe}", "--bind", f"127.0.0.1:{port}"]
    with Container("-w", "1", *start, "slow_start:app") as service:
        service.until_event("worker_start")
        assert status(probe, "/live") == 200
        assert status(probe, "/ready") == 503
        service.until_event("worker_ready")
        assert status(probe, "/ready", {"Host": "10.0.0.7:8081", "Origin": "https://elsewhere.example"}) == 200
        assert status(probe, "/metrics") == status(probe, "/api/v1/info") == status(probe, "/") == 404
        service.signal(signal.SIGTERM)
        service.until_event("operation_start", command="shutdown all")
        assert (status(probe, "/live"), status(probe, "/ready")) == (200, 503)
        assert http_pid(("127.0.0.1", port)) > 1  # whoever has not looked yet is served
        service.signal(signal.SIGQUIT)
        assert service.ended() == 0
