"""The user's Python environment reaches the user's code, and none of our own processes."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

from tests.tools.service import PYTHON, Service

if TYPE_CHECKING:
    from pathlib import Path

WORKER = """
import os, signal
try:
    import typing_extensions
except RuntimeError as error:
    print("the worker has", error, flush=True)
import helper
import cluster_service
cluster_service.worker_ready()
signal.pause()
"""
COMMAND = """
import helper
import cluster_service as cservice

@cservice.command("ask")
def ask():
    return helper.WORD
"""
PROGRAM = """
import helper
import cluster_service as cservice

if __name__ == "__main__":
    cservice.start("worker.py", worker_count=1, name="test")
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """PYTHONPATH with the user's own helper, and with an old version of what our dependencies need."""
    vendor = tmp_path / "vendor"
    vendor.mkdir()
    for name in ("typing_extensions", "starlette", "setproctitle"):
        (vendor / f"{name}.py").write_text(f"raise RuntimeError('an old {name}')\n")
    (vendor / "helper.py").write_text("WORD = 'of the user'\n")
    (tmp_path / "worker.py").write_text(WORKER)
    return {"PYTHONPATH": str(vendor), "PYTHONOPTIMIZE": "2", "PYTHONWARNINGS": "error"}


def test_an_old_module_in_the_users_path_reaches_workers_and_commands_only(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    commands = tmp_path / "commands"
    commands.mkdir()
    (commands / "ask.py").write_text(COMMAND)
    with Service("-w", "1", "--commands", "commands", "worker.py", cwd=tmp_path, env=environment) as service:
        service.serving(1)
        service.until_logged("the worker has an old typing_extensions")
        assert service.json("ask") == {"result": "of the user"}
        os.kill(service.json("info")["master_pid"], signal.SIGKILL)
        service.until_event("master_start", starts=2)
        assert service.json("ask") == {"result": "of the user"}
        service.process.send_signal(signal.SIGUSR2)
        service.until_event("master_start", starts=3)
        assert service.stop() == 0


def test_where_the_users_program_cannot_be_the_master_the_safe_master_can(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    (tmp_path / "server.py").write_text(PROGRAM)
    with Service(cwd=tmp_path, env=environment, command=(PYTHON, "server.py")) as service:
        service.until_logged("an old ")
        service.serving(1)
        assert service.json("info")["safe_mode"]
        assert service.stop() == 0
