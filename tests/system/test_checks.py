"""Active checks, WATCHDOG=1 and extended deadlines, for real."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from tests.tools import ask
from tests.tools.ports import free_port
from tests.tools.service import PYTHON, Service

if TYPE_CHECKING:
    from collections.abc import Sequence

PROGRAMS = Path(__file__).parent.parent / "programs" / "hanging"


def sick(port: int, *options: str) -> Service:
    return Service("-w", "2", "--bind", f"127.0.0.1:{port}", *options, "sick:app", cwd=PROGRAMS)


def replaced(service: Service, pid: int) -> str:
    """Wait until the worker has been replaced as one that hangs; return why."""
    (hung,) = service.until_event("worker_hung", pid=pid)
    service.until_event("worker_exit", pid=pid, reason="hang")
    assert len(service.serving(2)) == 2
    return str(hung["detail"])


def test_each_worker_is_asked_on_an_address_of_its_own() -> None:
    port = free_port()
    with sick(port, "--check-path", "/health", "--check-interval", "500ms") as service:
        workers = service.serving(2)
        pid = int(ask.http(("127.0.0.1", port), "/sicken"))
        assert "is unhealthy: the health check GET /health at unix:/" in (why := replaced(service, pid))
        assert "was answered 503 Service Unavailable" in why
        assert ({*workers} - {pid}) <= set(service.serving(2)), "the other was well"
        assert service.json("info")["ports"] == [f"127.0.0.1:{port}"]


def test_a_command_finds_out_whom_it_is_to_look_at(tmp_path: Path) -> None:
    port = free_port()
    check = tmp_path / "check"
    check.write_text(f"#!/bin/sh\ntest ! -e {tmp_path}/sick.$CSERVICE_CHECK_PID || {{ echo it is ill; exit 3; }}\n")
    check.chmod(0o755)
    config = tmp_path / "cluster-service.toml"
    config.write_text(
        f'target = "sick:app"\ncwd = "{PROGRAMS}"\nworkers = 2\nbind = ["127.0.0.1:{port}"]\n'
        f'check_command = ["{check}"]\ncheck_interval = "500ms"\n'
    )
    with Service("--config", str(config)) as service:
        _, second = service.serving(2)
        (tmp_path / f"sick.{second}").touch()
        assert replaced(service, second) == f"is unhealthy: the check {check} failed with exit code 3: it is ill"


def test_a_program_that_says_watchdog_must_go_on_saying_it() -> None:
    command: Sequence[str] = ("-w", "2", "--hang-timeout", "2s", "--", PYTHON, "watchdog.py")
    with Service(*command, cwd=PROGRAMS) as service:
        first, _ = service.serving(2)
        assert "it has not said WATCHDOG=1 for 2 s" in replaced_once(service, first)


def replaced_once(service: Service, pid: int) -> str:
    (hung,) = service.until_event("worker_hung", pid=pid)
    service.until_event("worker_exit", pid=pid, reason="hang")
    return str(hung["detail"])


def test_work_that_was_announced_is_no_hang() -> None:
    port = free_port()
    with sick(port, "--hang-timeout", "2s") as service:
        workers = service.serving(2)
        assert int(ask.http(("127.0.0.1", port), "/work")) in workers
        assert service.serving(2) == workers
        assert not [event for event in service.events if event["type"] == "worker_hung"]


def test_without_a_service_it_means_nothing() -> None:
    import cluster_service as cservice

    assert "CSERVICE_SLOT" not in os.environ
    cservice.extend_deadline(10)
