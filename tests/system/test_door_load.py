"""An open door under attack: it costs the workers no more than attackers at any port of the machine would, the master
little, and the door recovers. ``benchmarks/door.py`` measures it.

``CSERVICE_TEST_ATTACK`` is for how many seconds it goes on (4).
"""

from __future__ import annotations

import os
import resource
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cluster_service.client.client import connect
from cluster_service.errors import CommandError
from cluster_service.server import endpoint_connections, rate_limits
from tests.tools.attack import HELD, Attack, BareDoor
from tests.tools.load import Load
from tests.tools.ports import free_port
from tests.tools.service import DEADLINE, Service

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cluster_service.client.client import Client

PROGRAMS = Path(__file__).parent.parent / "programs"
KEY = "correct-horse-battery-staple"
SECONDS = float(os.environ.get("CSERVICE_TEST_ATTACK", "4"))
MEMORY = 64 << 20
"""Bytes that the master may grow by."""
SLACK = 20
"""Descriptors that come and go."""


@pytest.fixture
def descriptors() -> Iterator[None]:
    """Room for the attackers' connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < HELD + 1000:
        pytest.skip(f"this user may have only {hard} descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, HELD + 1000), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def held_by(pid: int) -> tuple[int, int]:
    """The descriptors and the bytes of memory that a process has."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return len(os.listdir(f"/proc/{pid}/fd")), pages * resource.getpagesize()


def measured(url: str, seconds: float) -> float:
    """The workers' median latency in seconds over that time, in which no request failed."""
    with Load(url, rate=100.0) as load:
        threading.Event().wait(seconds)  # this is how long the load lasts, not a wait for anything
        result = load.finish()
    assert result.failed == 0, result
    return result.median


def test_an_attack_costs_the_workers_nothing_and_the_door_recovers(tmp_path: Path, descriptors: None) -> None:
    port, door = free_port(), free_port()
    key_file = tmp_path / "key"
    key_file.write_text(KEY)
    key_file.chmod(0o600)
    options = ("-w", "2", "--port", str(door), "--access-key-file", str(key_file))
    with Service(*options, "http_server.py", str(port), cwd=PROGRAMS) as service:
        pids = service.serving(2)
        client = connect(url=f"http://127.0.0.1:{door}", access_key=KEY)
        master = service.json("info")["master_pid"]
        client.health()
        fds_before, memory_before = held_by(master)
        with BareDoor() as bare, Attack(bare.port) as attack:
            assert attack.all_held.wait(DEADLINE)
            elsewhere = measured(f"http://127.0.0.1:{port}/", 1.5)  # what attackers on this machine cost anybody
        with Attack(door) as attack:
            assert attack.all_held.wait(DEADLINE)
            busy = measured(f"http://127.0.0.1:{port}/", SECONDS)
            fds, memory = held_by(master)
            assert service.json("health")["status"] == "ok"  # the owner's door has a room of its own
        assert attack.tried > 100
        assert busy < 3 * elsewhere + 0.05, f"{busy * 1000:.0f} ms, beside {elsewhere * 1000:.0f} at a bare port"
        assert fds <= fds_before + endpoint_connections.CONNECTIONS + rate_limits.QUEUE + SLACK
        assert memory <= memory_before + MEMORY
        until = time.monotonic() + DEADLINE
        while held_by(master)[0] > fds_before + SLACK and time.monotonic() < until:
            service.json("health")  # a turn of the master's loop, and more
        assert held_by(master)[0] <= fds_before + SLACK
        assert recovered(client) == "ok"
        assert held_by(master)[1] <= memory_before + MEMORY
        assert service.json("info")["master_pid"] == master
        assert sorted(worker["pid"] for worker in service.workers()) == pids
        assert "Traceback" not in service.log
        assert len(service.lines) < 200, "the log was flooded"


def recovered(client: Client) -> str:
    """The health, as soon as the wrong keys from this address are forgiven."""
    until = time.monotonic() + DEADLINE
    while True:
        try:
            return str(client.health()["status"])
        except CommandError as error:
            if error.code != "too_many_requests" or time.monotonic() > until:
                raise
            threading.Event().wait(1.0)  # what the refusal asks for: some seconds
