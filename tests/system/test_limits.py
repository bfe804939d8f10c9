"""Limits, identity, files of variables and titles of a whole service: what the kernel says of its processes."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests.tools.processes import children_of
from tests.tools.service import DEADLINE, Service, cservice

from .test_ports import identity, interpreter_for

USABLE = sorted(os.sched_getaffinity(0))
CONFIGURATION = """
target = "wait.py"
workers = 2
monitor = "200ms"
env_files = ["secret.env", "-absent.env"]
umask = "027"
nice = 5
cpu_affinity = "spread"
oom_score_adj = 200
limits = {nofile = "128:256", core = 0}
"""
WAIT = """
import os, signal, cluster_service
print(os.environ["TOKEN"] == "hush", flush=True)
cluster_service.worker_ready()
signal.pause()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "wait.py").write_text(WAIT)
    (tmp_path / "secret.env").write_text("TOKEN=hush\nCSERVICE_ACCESS_KEY=hush\n")
    (tmp_path / "cluster-service.toml").write_text(CONFIGURATION)
    return tmp_path


def title(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").decode()


def until_titled(service: Service, pid: int, wanted: str) -> None:
    """A worker is told its state just after the world is: ask the service for something until it shows."""
    end = time.monotonic() + DEADLINE
    while title(pid) != wanted and time.monotonic() < end:
        service.workers()
    assert title(pid) == wanted


def environment(pid: int) -> dict[str, str]:
    pairs = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    return dict(pair.split("=", 1) for pair in pairs if pair)


def check_limits(pid: int, slot: int) -> None:
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    assert "Umask:\t0027\n" in status
    assert f"Cpus_allowed_list:\t{USABLE[(slot - 1) % len(USABLE)]}\n" in status
    limits = Path(f"/proc/{pid}/limits").read_text(encoding="utf-8").splitlines()
    assert [line.split()[3:5] for line in limits if line.startswith("Max open files")] == [["128", "256"]]
    assert [line.split()[4:6] for line in limits if line.startswith("Max core file size")] == [["0", "0"]]
    assert os.getpriority(os.PRIO_PROCESS, pid) == 5
    assert Path(f"/proc/{pid}/oom_score_adj").read_text(encoding="ascii") == "200\n"


def test_a_file_says_it_all_and_the_kernel_agrees(folder: Path) -> None:
    with Service(cwd=folder) as service:
        service.serving(2)
        for row in service.workers():
            check_limits(row["pid"], row["slot"])
            until_titled(service, row["pid"], f"cservice: test web.{row['slot']} serving")
            found = environment(row["pid"])
            assert found["TOKEN"] == "hush"
            assert "CSERVICE_ACCESS_KEY" not in found
        assert title(service.pid) == "cservice: test guardian"
        workers = [row["pid"] for row in service.workers()]
        ours = sorted(title(pid) for pid in children_of(service.pid) if pid not in workers)
        assert ours == ["cservice: test cleaner", "cservice: test log writer", "cservice: test master"]
        told = service.cli("config", "show", "--running").out + service.cli("--json", "config", "show", "--running").out
        assert "secret.env" in told
        assert "hush" not in told + service.log
        assert "True" in service.log


def test_a_changed_file_of_variables_is_taken_up_by_a_reload_and_not_by_a_restart(folder: Path) -> None:
    with Service(cwd=folder) as service:
        service.serving(2)
        (folder / "secret.env").write_text("TOKEN=other\n")
        assert service.cli("restart", "all").code == 0
        assert {environment(pid)["TOKEN"] for pid in service.serving(2)} == {"hush"}
        planned = service.cli("reload", "--plan").out
        assert "env_files: the values in them have changed" in planned
        assert "other" not in planned
        assert service.cli("reload").code == 0
        assert {environment(pid)["TOKEN"] for pid in service.serving(2)} == {"other"}
        (folder / "secret.env").unlink()
        refused = service.cli("reload")
        assert refused.code == 2
        assert f"there is no file {folder}/secret.env" in refused.err
        assert service.cli("rollback").code == 0
        assert {environment(pid)["TOKEN"] for pid in service.serving(2)} == {"hush"}


def test_a_limit_that_no_worker_can_live_with_is_undone(folder: Path) -> None:
    """And undone altogether: a worker that is lost afterwards is started as before."""
    with Service(cwd=folder) as service:
        service.serving(2)
        text = CONFIGURATION.replace('"128:256"', "3")  # not one descriptor is left for a script
        (folder / "cluster-service.toml").write_text(text)
        failed = service.cli("reload")
        assert failed.code == 1
        assert "undone" in failed.err
        (pid, _) = pids = service.serving(2)
        after = len(service.events)
        os.kill(pid, signal.SIGKILL)
        service.until_event("worker_ready", after=after)
        for row in service.workers():
            check_limits(row["pid"], row["slot"])
        assert set(service.serving(2)) - set(pids)


def test_what_cannot_be_had_is_told_before_anything_starts(folder: Path) -> None:
    (folder / "cluster-service.toml").write_text(CONFIGURATION.replace('"spread"', "4000"))
    for arguments in (("start",), ("config", "check")):
        done = cservice(*arguments, cwd=folder)
        assert done.code == 2
        assert "this service has no processor 4000" in done.err


def test_options_on_the_command_line_and_no_titles(folder: Path) -> None:
    (folder / "cluster-service.toml").unlink()
    options = ("-w", "1", "--limit", "nofile=99", "--limit", "core=0", "--env-file")
    with Service(*options, "secret.env", "--no-process-titles", "wait.py", cwd=folder) as service:
        (pid,) = service.serving(1)
        assert title(pid).endswith("\0wait.py") or title(pid).endswith(f"\0{folder}/wait.py")
        assert title(service.pid).endswith("\0test")
        assert environment(pid)["TOKEN"] == "hush"
        assert "Max open files            99                   99 " in Path(f"/proc/{pid}/limits").read_text()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_workers_of_another_user(folder: Path) -> None:
    program = (*interpreter_for(65534), "-c", "import signal; signal.pause()")
    with Service("--user", "nobody", "--ready-after", "50ms", "--cwd", "/", "--", *program, cwd=folder) as service:
        pids = service.serving(2)
        for row in service.workers():
            check_limits(row["pid"], row["slot"])
            assert title(row["pid"]) == "\0".join(program), "a program that is not ours to change has its own title"
            found = environment(row["pid"])
            assert (found["HOME"], found["USER"], found["TOKEN"]) == ("/nonexistent", "nobody", "hush")
        assert {identity(pid) for pid in pids} == {(65534, 65534)}
