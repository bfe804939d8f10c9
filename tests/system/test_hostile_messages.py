"""A worker that means harm, beside one that serves: the service, its master and the other worker go on."""

from __future__ import annotations

import os
import pwd
import signal
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.tools.ports import free_port
from tests.tools.processes import descendants
from tests.tools.service import Service

from .test_ports import interpreter_for

if TYPE_CHECKING:
    from collections.abc import Iterator

PROGRAMS = Path(__file__).parent.parent / "programs"

CONFIG = """
[groups.web]
target = "http_server.py"
workers = 1
args = ["{port}"]

[groups.evil]
target = "evil.py"
workers = 1
ready_after = "0.1s"
stop_timeout = "1s"
env = {{HOSTILE = "{what}"}}
{more}
"""


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A directory that every user can reach."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        os.chmod(name, 0o755)
        yield Path(name)


@pytest.mark.parametrize("what", ["passes_by_notify", "passes_by_channel", "nests", "extends", "floods"])
@pytest.mark.parametrize("user", ["the service's", "another"])
def test_a_hostile_worker_harms_itself_only(open_folder: Path, what: str, user: str) -> None:
    if user == "another" and os.geteuid() != 0:
        pytest.skip("needs root")
    more = ""
    if user == "another":
        more = f'user = "nobody"\npython = "{interpreter_for(pwd.getpwnam("nobody").pw_uid)[0]}"'
    for program in ("http_server.py", "hostile/evil.py"):
        (open_folder / Path(program).name).write_text((PROGRAMS / program).read_text())
    (open_folder / "service.toml").write_text(CONFIG.format(port=free_port(), what=what, more=more))
    with Service("--config", "service.toml", cwd=open_folder) as service:
        service.until_event("worker_ready", group="web")
        service.until_logged("[evil.1] done")
        (web,) = [worker["pid"] for worker in service.workers() if worker["group"] == "web"]
        os.kill(web, signal.SIGKILL)
        service.until_event("worker_exit", group="web")
        service.until_event("worker_ready", 2, group="web")
        assert service.json("info")["master_starts"] == 1
        for worker in service.workers():
            assert worker.get("status", "").isprintable()
            assert len(worker.get("status", "")) <= 500
        pids = descendants(service.pid)
        assert service.stop() == 0
    assert not [pid for pid in pids if os.path.exists(f"/proc/{pid}")]
