"""A whole service under a service manager: what it is told, and the sockets that it passes."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.tools.ask import http, http_pid, raw, udp_pid, workers_that_answer
from tests.tools.manager import Manager
from tests.tools.ports import free_port
from tests.tools.service import CSERVICE, Service, cservice, run_directory

if TYPE_CHECKING:
    from collections.abc import Iterator

PROGRAMS = Path(__file__).parent.parent / "programs"
ACTIVATE = [sys.executable, str(PROGRAMS / "activate.py")]
START = ["--", CSERVICE, "start", "--name", "test"]


@pytest.fixture
def manager() -> Iterator[Manager]:
    with Manager() as heard:
        yield heard


def activated(sockets: list[str], *arguments: str, env: dict[str, str] | None = None) -> Service:
    return Service(*arguments, cwd=PROGRAMS, env=env, command=[*ACTIVATE, *sockets, *START])


def test_a_service_is_ready_when_all_of_its_workers_are_and_says_what_it_does(manager: Manager) -> None:
    env = {"NOTIFY_SOCKET": manager.name, "WATCHDOG_USEC": "400000"}
    arguments = ("-w", "2", "--ready-after", "60s", "environment.py", "127.0.0.1", str(port := free_port()))
    with Service(*arguments, cwd=PROGRAMS, env=env) as service:
        ready = manager.told("READY")
        assert (ready["STATUS"], ready["MAINPID"]) == ("2 of 2 serving", str(service.pid))
        assert len(service.serving(2)) == 2
        manager.told("WATCHDOG", "1")

        # what was the manager's is nobody else's
        found: dict[str, Any] = json.loads(http(("127.0.0.1", port)))["env"]
        assert found["NOTIFY_SOCKET"] not in ("", manager.name)
        assert not {"WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS"} & set(found)

        os.kill(service.json("info")["master_pid"], signal.SIGKILL)  # nothing is told of that
        service.until_event("master_start")
        assert service.cli("restart", "all").code == 0
        manager.until(lambda message: message.get("STATUS") == "2 of 2 serving; restart 2: 1/2")
        manager.told("STATUS", "2 of 2 serving")
        assert manager.said("READY") == ["1"]

        service.process.send_signal(signal.SIGHUP)
        manager.told("RELOADING", "1")
        manager.told("READY", "1")
        assert service.until_event("operation_end", state="done", count=4)

        assert service.cli("--json", "shutdown", "all").code == 0
        manager.told("STOPPING", "1")
        assert service.ended() == 0


def test_a_reload_that_is_refused_ends_ready(manager: Manager, tmp_path: Path) -> None:
    config = tmp_path / "cluster-service.toml"
    target = PROGRAMS / "http_server.py"
    text = f'target = "{target}"\nargs = ["{free_port()}"]\nworkers = 1\n'
    config.write_text(text, encoding="utf-8")
    with Service(cwd=tmp_path, env={"NOTIFY_SOCKET": manager.name}) as service:
        manager.told("READY")
        config.write_text(text + "wrokers = 2\n", encoding="utf-8")
        service.process.send_signal(signal.SIGHUP)
        manager.told("RELOADING")
        manager.told("READY")
        service.until_logged("nothing was changed")


def test_a_start_that_fails_is_not_waited_for(manager: Manager, tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("raise SystemExit(1)\n", encoding="utf-8")
    with Service("-w", "1", "--restarts-per-minute", "1", "bad.py", cwd=tmp_path, env={"NOTIFY_SOCKET": manager.name}):
        assert "READY" not in manager.told("STATUS", "0 of 1 serving; web.1 is broken")
    assert manager.said("READY") == []
    manager.told("STOPPING")


def test_a_service_that_remembers_an_earlier_life_waits_for_its_own_start(manager: Manager, tmp_path: Path) -> None:
    """Its first operation is not number 1."""
    (tmp_path / "slow.py").write_text("import time, asgi_pid\ntime.sleep(1)\napp = asgi_pid.app\n", encoding="utf-8")
    at = ["--name", "test", "--state", str(tmp_path / "state"), "-w", "2", "--env", f"PYTHONPATH={PROGRAMS}"]
    start = [*at, "--bind", f"127.0.0.1:{free_port()}", "slow:app"]
    for _ in range(2):
        assert cservice("start", "--detach", *start, cwd=tmp_path).code == 0
        try:
            shown = json.loads(cservice("--name", "test", "--json", "health").out)
            assert (shown["serving"], shown["wanted"]) == (2, 2)
        finally:
            assert cservice("--name", "test", "shutdown", "all").code == 0
    log = run_directory() / "test.log"
    log.unlink()
    with Service(*start, cwd=tmp_path, env={"NOTIFY_SOCKET": manager.name}, command=[CSERVICE, "start"]):
        assert manager.told("READY")["STATUS"] == "2 of 2 serving"


@pytest.mark.parametrize("share", ["auto", "python"])
def test_sockets_that_are_passed_are_the_workers(share: str) -> None:
    port, other = free_port(), free_port()
    sockets = [f"web=127.0.0.1:{port}", f"spare=127.0.0.1:{other}", "junk=pipe"]
    how = () if share == "auto" else ("--share", share)
    with activated(sockets, "-w", "2", *how, "--ready-after", "60s", "http_server.py", str(port)) as service:
        workers = service.serving(2)
        assert workers_that_answer(lambda: http_pid(("127.0.0.1", port)), workers) == set(workers)
        service.until_logged(f"127.0.0.1:{other} (spare), which was passed to the service, is used by no worker")
        service.until_logged("descriptor 5 (junk), which was passed to the service, is no socket")
        assert service.cli("restart", "all").code == 0
        assert http_pid(("127.0.0.1", port)) in service.serving(2)
        assert service.json("info")["ports"] == [f"127.0.0.1:{port}"]


@pytest.mark.parametrize(
    ("given", "bound", "asked"),
    [
        ("0.0.0.0", "127.0.0.1", "127.0.0.1"),
        ("127.0.0.1", "0.0.0.0", "127.0.0.1"),
        ("[::]", "::1", "::1"),
        ("[::]", "::1", "127.0.0.1"),
    ],
)
def test_the_unit_says_where_the_service_listens(given: str, bound: str, asked: str) -> None:
    port = free_port()
    program = ["--", "/usr/bin/env", sys.executable, "-c", SERVER, bound, str(port)]
    with activated([f"web={given}:{port}"], "-w", "1", "--ready-after", "60s", *program) as service:
        service.serving(1)
        assert raw((asked, port)) == b"hello"


SERVER = """
import socket, sys
s = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET)
s.bind((sys.argv[1], int(sys.argv[2])))
s.listen()
while True:
    c, _ = s.accept()
    c.sendall(b"hello")
    c.close()
"""


def test_a_socket_of_both_families_is_not_given_for_one_of_ipv4() -> None:
    port = free_port()
    with activated([f"web=[::]:{port}"], "-w", "1", "--ready-after", "60s", "http_server.py", str(port)) as service:
        service.until_logged(f"write ListenStream=127.0.0.1:{port} in its unit")


def test_an_app_is_served_on_what_is_passed() -> None:
    port = free_port()
    arguments = ("-w", "2", "--bind", f"127.0.0.1:{port}", "asgi_pid:app")
    with activated([f"web=127.0.0.1:{port}"], *arguments) as service:
        workers = service.serving(2)
        assert http_pid(("127.0.0.1", port)) in workers
        assert service.cli("restart", "all").code == 0
        assert http_pid(("127.0.0.1", port)) in service.serving(2)


def test_inherited_sockets_have_the_names_of_their_units(run_dir: Path) -> None:
    del run_dir
    port = free_port()
    code = (
        "import os, socket\ns = socket.socket(fileno=3)\n"
        "while True: s.accept()[0].sendall(os.environ['LISTEN_FDNAMES'].encode())"
    )
    arguments = ("-w", "1", "--share", "inherit", "--ready-after", "1ms", "--bind", f"127.0.0.1:{port}")
    with activated([f"front=127.0.0.1:{port}"], *arguments, "--", sys.executable, "-c", code) as service:
        service.serving(1)
        assert raw(("127.0.0.1", port)) == b"front"


def test_the_file_of_a_unix_socket_is_the_managers(tmp_path: Path, run_dir: Path) -> None:
    del tmp_path
    path = run_dir / "app.sock"
    with activated([f"web={path}"], "-w", "1", "--bind", f"unix:{path}", "asgi_pid:app") as service:
        (pid,) = service.serving(1)
        assert http_pid(str(path)) == pid
        assert service.cli("restart", "all").code == 0
        (pid,) = service.serving(1)
        assert http_pid(str(path)) == pid
    assert path.is_socket()
    path.unlink()


def test_udp_sockets_are_passed_too(run_dir: Path) -> None:
    del run_dir
    port = free_port()
    code = (
        "import os, socket, sys; s = socket.socket(type=socket.SOCK_DGRAM); s.bind(('127.0.0.1', int(sys.argv[1])))\n"
        "while True: s.sendto(str(os.getpid()).encode(), s.recvfrom(100)[1])"
    )
    program = ["--", sys.executable, "-c", code, str(port)]
    with activated([f"dns=udp:127.0.0.1:{port}"], "-w", "1", "--ready-after", "60s", *program) as service:
        assert service.serving(1) == [udp_pid(("127.0.0.1", port))]
