"""Programs that do not start while their port answers, although it is only the service that has it open."""

from __future__ import annotations

import pytest

from cluster_service.core.model.spec import GroupSpec, Release, Spec
from cluster_service.core.protocol import event_records
from cluster_service.core.protocol.requests import Restart
from cluster_service.testing import Program, World

from .stories import BROKEN, GOOD, operation, started, told

PORT = "127.0.0.1:8000"


def refuses(line: str) -> Program:
    return Program(dies_at=0.2, addresses=(), lines=("Checking", line))


def lose(made: World, line: str) -> str:
    """Kill the worker, let the next fail with *line*, and return why it did; the attempts after that are good."""
    made.programs["app"] = refuses(line)
    made.kernel.kill(made.serving()[0].worker)
    assert made.run_until(lambda: len(told(made, event_records.WorkerExit)) == 2, 10.0)
    made.programs["app"] = GOOD
    return str(told(made, event_records.WorkerExit)[1].detail)


@pytest.mark.parametrize(
    "line",
    [
        "Port 8000 is in use",
        "portend.Timeout: Port 8000 not free on 127.0.0.1.",
        "Something is already running on port 8000.",
        "Error: address 127.0.0.1:8000 is not available",
    ],
)
def test_a_port_that_no_worker_uses_is_let_go(line: str) -> None:
    made = started(1)
    assert lose(made, line).endswith(f"; the service had {PORT} open for the next worker, and has closed it")
    assert [event.address for event in told(made, event_records.PortClosed)] == [PORT]
    made.run(30.0)
    assert len(made.serving()) == 1
    assert PORT in made.kernel.held


@pytest.mark.parametrize("line", ["Port 80000 is in use", "Port 18000 is in use", "no database at port 8000", "in use"])
def test_another_failure_keeps_the_port(line: str) -> None:
    made = started(1)
    assert "open for the next worker" not in lose(made, line)
    assert not told(made, event_records.PortClosed)


def test_it_is_let_go_at_once_when_the_next_worker_ends() -> None:
    made = started(1)
    lose(made, "Port 8000 is in use")
    made.run(30.0)
    made.kill_master()
    made.run(5.0)
    made.kernel.kill(made.serving()[0].worker)
    made.run(0.05)
    assert PORT not in made.kernel.held
    made.run(30.0)
    assert len(made.serving()) == 1


def test_a_port_at_which_others_serve_is_kept_and_explained() -> None:
    made = started(2)
    made.programs["app"] = refuses("Port 8000 is in use")
    made.request(Restart("web.1"))
    made.run(30.0)
    said = f"it does not start while {PORT} answers, where web.1 serves; with singleton = true that ends first"
    assert said in str(operation(made).reason)
    assert len(made.serving()) == 2
    assert not told(made, event_records.PortClosed)


def test_a_worker_does_not_have_the_port_of_another_group_closed() -> None:
    groups = GroupSpec("web", 1, Release("script", "app")), GroupSpec("jobs", 1, Release("command", "jobs"))
    made = World(Spec("default", groups), {"app": GOOD, "jobs": Program(boot=0.5, ready="notify", addresses=())})
    assert made.run_until(lambda: len(made.serving()) == 2, 30.0)
    made.programs["app"] = BROKEN
    made.programs["jobs"] = refuses("Port 8000 is in use")
    for group in ("web", "jobs"):
        made.kernel.kill(made.serving(group)[0].worker)
    made.run(10.0)
    assert PORT in made.kernel.held  # clients wait in its queue for the next worker of web
    assert not told(made, event_records.PortClosed)
