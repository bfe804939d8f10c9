"""A deployment deletes the release that holds our own installation: what runs goes on, and every sentence says why
nothing can be started. Put back, the service is whole again.
"""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import cluster_service
from tests.tools.processes import log_writer_of
from tests.tools.service import PYTHON, Service

WORKER = """
import signal
import cluster_service
cluster_service.worker_ready()
signal.pause()
"""
GONE = "was deleted or moved"


def test_a_deleted_installation_is_warned_of_named_and_taken_up_again(tmp_path: Path) -> None:
    releases = [tmp_path / "releases" / name for name in ("1", "2")]
    for release in releases:
        release.mkdir(parents=True)
        (release / "worker.py").write_text(WORKER)
    (tmp_path / "current").symlink_to(releases[0])
    package = releases[0] / "lib" / "cluster_service"
    shutil.copytree(Path(cluster_service.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    isolated = (PYTHON, "-I", str(package / "isolation.py"), "cluster_service.__main__:main")
    command = (*isolated, "start", "--name", "{name}")
    with Service("-w", "2", "worker.py", cwd=tmp_path / "current", command=command) as service:
        service.serving(2)
        service.until_logged(f"warning: cluster-service itself is installed in the release {releases[0]}")
        done = service.cli("upgrade", "all", "worker.py", "--cwd", str(releases[1]), "--monitor", "0")
        assert done.code == 0, done
        assert f"is installed in {releases[0]}, which this upgrade leaves" in done.out + done.err, done

        package.rename(tmp_path / "away")
        killed, _ = service.serving(2)
        os.kill(killed, signal.SIGKILL)
        service.until_event("worker_exit", pid=killed)
        service.until(lambda: GONE in str(service.workers()), "why a worker is missing")
        master = service.json("info")["master_pid"]
        log_writer = log_writer_of(service.pid)
        assert log_writer is not None
        os.kill(log_writer, signal.SIGKILL)
        os.kill(master, signal.SIGKILL)
        service.until(lambda: sum(GONE in line for line in list(service.lines)) > 1, "why the log writer is missing")

        (tmp_path / "away").rename(package)
        service.until_event("master_start", starts=2)
        service.serving(2)
        assert service.stop() == 0
