"""Workers that do their worst with what they were given: the others, and the master, are not affected."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from tests.tools import ask
from tests.tools.ports import free_port
from tests.tools.service import CSERVICE, PYTHON, Service

PROGRAMS = Path(__file__).parent.parent / "programs" / "hanging"


def test_a_worker_that_fills_its_memory_disturbs_no_other(tmp_path: Path) -> None:
    port = free_port()
    config = tmp_path / "cluster-service.toml"
    config.write_text(
        f'[groups.web]\ntarget = "asgi:app"\ncwd = "{PROGRAMS}"\nworkers = 2\nbind = ["127.0.0.1:{port}"]\n'
        f'hang_timeout = "2s"\n'
        f'[groups.evil]\ntarget = "{PROGRAMS}/hostile.py"\nworkers = 1\nready_after = "1s"\nhang_timeout = "2s"\n'
    )
    with Service("--config", str(config)) as service:
        service.serving(3)
        web = {row["pid"] for row in service.workers() if row["group"] == "web"}
        (hung, again) = service.until_event("worker_hung", 2)
        assert {hung["group"], again["group"]} == {"evil"}
        assert hung["stacks"] == []
        service.until_logged(f"no stacks: process {service.pid} is older than the worker")
        assert {row["pid"] for row in service.workers() if row["group"] == "web"} == web
        assert int(ask.http(("127.0.0.1", port))) in web
        assert service.json("info")["master_starts"] == 1


def test_an_address_that_a_worker_only_names_is_not_connected_to(tmp_path: Path) -> None:
    port, target = free_port(), tmp_path / "root-only.sock"
    check = ("--check-path", "/health", "--check-interval", "200ms")
    with socket.socket(socket.AF_UNIX) as another:
        another.bind(str(target))
        another.listen()
        another.setblocking(False)
        with Service(
            "-w", "1", "--bind", f"127.0.0.1:{port}", *check, "deputy:app", cwd=PROGRAMS, env={"TARGET": str(target)}
        ) as service:
            service.until_logged(f"reported unix:{target} for health checks; ignored: not its own")
            (pid,) = service.serving(1)
            assert int(ask.http(("127.0.0.1", port))) == pid
        try:
            another.accept()[0].close()
        except BlockingIOError:
            connected = False
        else:
            connected = True
        assert not connected
        assert service.log.count("ignored: not its own") == 1
        assert os.path.exists(target)


ESCAPE = """
import os, signal, sys
import cluster_service
tried = []
for what in (
    lambda: os.setpgid(0, os.getpgid(os.getppid())),
    lambda: os.setpgid(0, 0),
    lambda: os.open("/dev/tty", os.O_RDWR),
):
    try:
        what()
    except OSError:
        continue
    tried.append("done")
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("escaped:", tried, flush=True)
cluster_service.worker_ready()
while True:
    signal.pause()
"""
IN_A_TERMINAL = """
import contextlib, os, sys
with contextlib.suppress(OSError):
    os.setsid()
os.close(os.open(sys.argv[1], os.O_RDWR))
os.close(os.open("/dev/tty", os.O_RDWR))
os.execv(sys.argv[2], sys.argv[2:])
"""


def test_no_worker_leaves_its_process_group_or_reaches_the_terminal(tmp_path: Path) -> None:
    (tmp_path / "worker.py").write_text(ESCAPE)
    terminal, side = os.openpty()
    command = (PYTHON, "-c", IN_A_TERMINAL, os.ttyname(side), CSERVICE, "start", "--name", "{name}")
    try:
        with Service("-w", "2", "--stop-timeout", "1s", "worker.py", cwd=tmp_path, command=command) as service:
            first = service.serving(2)
            service.until(lambda: sum("escaped: []" in line for line in list(service.lines)) == 2, "two that could not")
            assert service.cli("restart", "all").code == 0
            assert not set(service.serving(2)) & set(first)
            assert service.stop() == 0
    finally:
        os.close(side)
        os.close(terminal)
