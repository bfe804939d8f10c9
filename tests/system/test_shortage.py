"""A service whose disk is full, or whose master has too little of something: it serves on, says why, and recovers."""

from __future__ import annotations

import errno
import os
import resource
import signal
from typing import TYPE_CHECKING

import pytest

from cluster_service.machine.shortage import SENTENCES
from tests.tools import releases
from tests.tools.load import Load, Result
from tests.tools.ports import free_port
from tests.tools.processes import descendants
from tests.tools.service import Service, wait_for_file
from tests.tools.shortage import GROUPS, ROOT, full, limited, no_processes, room_for, size_of, small_disk

if TYPE_CHECKING:
    from pathlib import Path


def service_of(folder: Path, port: int, *options: str) -> Service:
    """Two workers of the script in *folder*."""
    return Service("-w", "2", "--monitor", "100ms", *options, "worker.py", str(port), cwd=folder)


def answered_hangup(service: Service) -> bool:
    """Whether it has restarted everybody because of SIGHUP, or said why it could not."""
    restarts = [event for event in service.events if event.get("command") == "restart all"]
    done = any(event.get("state") == "done" for event in restarts)
    return done or "SIGHUP: nothing was changed: the configuration cannot be read" in service.log


def only_what_was_held(result: Result) -> None:
    """A worker was killed: nothing but requests that it had accepted may have failed, and those are few."""
    assert all(reason.startswith(("before the answer", "in the answer")) for reason in result.reasons), result
    assert result.failed <= 10, result


@pytest.mark.skipif(not ROOT, reason="only root can mount a small disk")
def test_a_full_disk_costs_lines_of_the_log_and_nothing_else(
    tmp_path: Path, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port, disk = free_port(), run_dir / "disk"
    disk.mkdir()
    talk = "print('x' * 5000)"  # more than has room in the last block of the log
    folders = [releases.write(tmp_path / version, version, "script", head=talk) for version in ("v1", "v2")]
    log, state = disk / "service.log", disk / "state.json"
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(disk))
    with small_disk(disk), service_of(folders[0], port, "--log-file", str(log), "--state", str(state)) as service:
        service.serving(2)
        wait_for_file(state, service.alive)
        before = state.read_text()
        with Load(f"http://127.0.0.1:{port}/", rate=50) as load:
            with full(disk):
                assert service.cli("upgrade", "all", "worker.py", "--cwd", str(folders[1])).code == 0
                os.kill(service.json("info")["master_pid"], signal.SIGKILL)
                service.until_event("master_start", starts=2)
                assert service.cli("restart", "1").code == 0
                assert state.read_text() == before, "it is whole, if old"
            assert service.cli("restart", "2").code == 0
            assert load.finish().failed == 0
        assert service.stop() == 0
        assert str(folders[1]) in state.read_text()
        assert "lines before this one could not be written: the disk is full (make room on it)" in log.read_text()
        assert [path.name for path in (disk / "cluster-service").iterdir()] == []


@pytest.mark.skipif(not ROOT, reason="only root can mount a small disk")
def test_the_state_is_written_as_soon_as_there_is_room(tmp_path: Path, run_dir: Path) -> None:
    port, disk = free_port(), run_dir / "disk"
    disk.mkdir()
    folder = releases.write(tmp_path / "v1", "v1", "script")
    with small_disk(disk), service_of(folder, port, "--state", str(disk / "state.json")) as service:
        service.serving(2)
        with full(disk):
            assert service.cli("restart", "1").code == 0
            service.until_logged(f"state.json: {SENTENCES[errno.ENOSPC]}; it is tried again")
        service.until_logged("state.json again")
        assert "restart 1" in (disk / "state.json").read_text()


def test_a_master_without_descriptors_costs_no_request_and_answers_when_it_has_some(tmp_path: Path) -> None:
    port = free_port()
    with service_of(releases.write(tmp_path / "v1", "v1", "script"), port) as service:
        workers = service.serving(2)
        master = service.json("info")["master_pid"]
        with Load(f"http://127.0.0.1:{port}/", rate=50) as load:
            with limited(master, resource.RLIMIT_NOFILE, room_for(master, 0)):
                os.kill(workers[0], signal.SIGKILL)
                service.serving(2)
            assert service.json("info")["master_pid"] == master
            only_what_was_held(load.finish())


@pytest.mark.skipif(not GROUPS, reason="needs root and control groups of processes")
def test_an_upgrade_by_a_master_without_processes_ends_with_the_reason(tmp_path: Path) -> None:
    port = free_port()
    first, second = (releases.write(tmp_path / version, version, "script") for version in ("v1", "v2"))
    with service_of(first, port) as service:
        workers = service.serving(2)
        with no_processes(service.json("info")["master_pid"]):
            done = service.cli("upgrade", "all", "worker.py", "--cwd", str(second))
            assert done.code == 1, done
            assert "could not be looked at: " in done.err
        assert service.serving(2) == workers
        assert service.cli("upgrade", "all", "worker.py", "--cwd", str(second)).code == 0


def test_a_master_without_memory_costs_no_request_and_work_is_done_after_all(tmp_path: Path) -> None:
    """It makes way for another, or has just enough: what must not be is one that lives and does its work no more."""
    port = free_port()
    with service_of(releases.write(tmp_path / "v1", "v1", "script"), port) as service:
        workers = service.serving(2)
        master = service.json("info")["master_pid"]
        with Load(f"http://127.0.0.1:{port}/", rate=50) as load:
            with limited(master, resource.RLIMIT_AS, size_of(master)):
                os.kill(workers[0], signal.SIGKILL)
                service.until(lambda: workers[0] not in descendants(service.pid), "the end of the worker")
                os.kill(service.pid, signal.SIGHUP)  # which needs more than it has
                service.serving(2)
            service.until(lambda: answered_hangup(service), "what came of SIGHUP")
            assert service.cli("restart", "all").code == 0
            only_what_was_held(load.finish())
        assert not set(service.serving(2)) & set(workers)
