"""The worker's board: that its loop turns, and what it answers.

The apps look at their own board, around a wait in which their loop turns, or does not.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import time
from typing import TYPE_CHECKING

import pytest

from cluster_service.wire import worker_protocol
from tests.tools.ports import free_port

from .harness import KeepAlive, Worker, get, interpreters, write

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BEAT = """
import os, sys
def beat():
    return int.from_bytes(os.pread(int(os.environ["BOARD"]), 8, 0), sys.byteorder)
"""

APP = (
    BEAT
    + """
import asyncio, time
async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    path, before = scope["path"], beat()
    if path == "/raise":
        raise RuntimeError("on purpose")
    if path == "/silent":
        return
    if path == "/turn":
        await asyncio.sleep(0.6)
    if path == "/block":
        time.sleep(0.6)
    status = int(path[1:]) if path[1:].isdigit() else 200
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"==" if beat() == before else b"!="})
    if path == "/late":
        raise RuntimeError("after its answer")
"""
)

WSGI = """
def app(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/raise":
        raise RuntimeError("on purpose")
    status = path[1:] if path[1:].isdigit() else "200"
    start_response(f"{status} It", [("Content-Length", "2")])
    return [b"ok"]
"""

SCRIPT = """
import sys, uvicorn
from shop import app, beat
class Server(uvicorn.Server):
    async def startup(self, sockets=None):
        await super().startup(sockets)
        print("serves", turn)
async def ending(scope, receive, send):
    await app(scope, receive, send)
    server.should_exit = server.should_exit or scope["type"] == "http" and scope["path"] == "/end"
config = uvicorn.Config(ending, port=int(sys.argv[1]), loop=sys.argv[2], log_level="warning")
for turn in 1, 2:
    server = Server(config)
    server.run()
    print("beat without a server:", beat())
"""

PLAIN = (
    BEAT
    + """
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        body = str(beat()).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        if self.path == "/end":
            threading.Thread(target=self.server.shutdown).start()
server = HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
print("serves")
server.serve_forever()
print("beat without a server:", beat())
"""
)


@pytest.fixture
def memory() -> Iterator[int]:
    descriptor = os.memfd_create("board")
    os.ftruncate(descriptor, worker_protocol.SIZE)
    yield descriptor
    os.close(descriptor)


def row(descriptor: int) -> worker_protocol.Row:
    return worker_protocol.read_row(os.pread(descriptor, worker_protocol.ROW, 0), time.monotonic_ns())


def worker(memory: int, *argv: str, cwd: Path | None = None, python: str = sys.executable) -> Worker:
    env = {"CSERVICE_BOARD": str(memory), "BOARD": str(memory)}
    return Worker(*argv, cwd=cwd, python=python, pass_fds=[memory], env=env)


def served(tmp_path: Path, memory: int, server: str, source: str = APP) -> tuple[Worker, int]:
    write(tmp_path / "shop.py", source)
    port = free_port()
    return worker(memory, "app", "shop:app", server, f"127.0.0.1:{port}", cwd=tmp_path), port


def status(port: int, path: str) -> int:
    return int(get(port, path).split(b" ", 2)[1])


LOOPS = ["asyncio", *(["uvloop"] if importlib.util.find_spec("uvloop") else [])]


@pytest.mark.parametrize(
    ("server", "source"), [("uvicorn", APP), ("granian", APP), ("uvicorn", WSGI), ("granian", WSGI)]
)
def test_answers_are_counted(server: str, source: str, tmp_path: Path, memory: int) -> None:
    each, port = served(tmp_path, memory, server, source)
    with each:
        each.ready()
        assert [status(port, path) for path in ("/", "/404", "/500", "/503", "/raise")] == [200, 404, 500, 503, 500]
        assert row(memory)[1:3] == (5, 3)


@pytest.mark.parametrize("server", ["uvicorn", "granian"])
def test_answers_on_one_connection_are_counted_each(server: str, tmp_path: Path, memory: int) -> None:
    each, port = served(tmp_path, memory, server)
    with each:
        each.ready()
        with KeepAlive(port) as client:
            assert [client.ask(path)[0] for path in ("/", "/503", "/", "/")] == [200, 503, 200, 200]
        assert row(memory)[1:3] == (4, 1)


def test_an_answer_is_counted_once_whatever_comes_after_it(tmp_path: Path, memory: int) -> None:
    each, port = served(tmp_path, memory, "uvicorn")
    with each:
        each.ready()
        assert [status(port, path) for path in ("/late", "/silent")] == [200, 500]
        assert row(memory)[1:3] == (2, 1)


@pytest.mark.parametrize("server", ["uvicorn", "granian"])
def test_it_beats_as_long_as_the_loop_turns(server: str, tmp_path: Path, memory: int) -> None:
    each, port = served(tmp_path, memory, server)
    with each:
        each.ready()
        bodies = [get(port, path)[-2:] for path in ("/turn", "/block", "/turn")]
        assert bodies == [b"!=", b"==", b"!="]


@pytest.mark.parametrize("loop", LOOPS)
def test_a_script_that_runs_uvicorn_beats_and_counts_until_its_server_ends(
    loop: str, tmp_path: Path, memory: int
) -> None:
    write(tmp_path / "shop.py", APP)
    port = free_port()
    with worker(memory, "script", write(tmp_path / "main.py", SCRIPT), str(port), loop, cwd=tmp_path) as each:
        for turn in (1, 2):
            each.line(f"serves {turn}")
            assert [get(port, path)[-2:] for path in ("/turn", "/block")] == [b"!=", b"=="]
            assert [status(port, path) for path in ("/raise", "/end")] == [500, 200]
        assert each.wait() == 0
        assert each.lines.count("beat without a server: 0") == 2
        assert row(memory)[:3] == (0, 8, 2)


@pytest.mark.parametrize("python", interpreters())
def test_a_plain_server_beats_until_it_ends(python: str, tmp_path: Path, memory: int) -> None:
    port = free_port()
    path = write(tmp_path / "plain.py", PLAIN)
    with worker(memory, "script", path, str(port), python=python) as each:
        each.line("serves")
        beats = [int(get(port, "/").rpartition(b"\r\n")[2]) for _ in range(3)]  # it turns between two requests
        assert 0 < beats[0] < beats[1] < beats[2]
        get(port, "/end")
        assert each.wait() == 0
        assert "beat without a server: 0" in each.lines


def test_the_main_threads_loop_is_the_one_that_counts(tmp_path: Path, memory: int) -> None:
    path = write(
        tmp_path / "loops.py",
        """
        import threading
        from cluster_service.worker.runtime import current
        heartbeat = current().heartbeat
        def beats(loop):
            cells = heartbeat._cells
            cells[0] = 0
            heartbeat.beat(loop)
            return cells[0] > 0
        def aside(what, loop):
            found = []
            thread = threading.Thread(target=lambda: found.append(what(loop)))
            thread.start()
            thread.join()
            return found[0]
        print(aside(beats, "metrics"), aside(beats, "other"), beats("main"), aside(beats, "metrics"), beats("second"))
        heartbeat.loop_ended("metrics")
        heartbeat.loop_ended("main")
        print(heartbeat._cells[0], aside(beats, "metrics"))
        """,
    )
    with worker(memory, "script", path) as each:
        assert each.wait() == 0
        assert each.lines == ["True False True False False", "0 True"]


def test_a_fork_writes_nothing(tmp_path: Path, memory: int) -> None:
    path = write(
        tmp_path / "forks.py",
        """
        import os
        from cluster_service.worker.runtime import current
        assert "CSERVICE_BOARD" not in os.environ
        if os.fork() == 0:
            current().heartbeat.count_answer(500)
            current().heartbeat.beat("loop")
            os._exit(0)
        os.wait()
        current().heartbeat.count_answer(200)
        """,
    )
    with worker(memory, "script", path) as each:
        assert each.wait() == 0
        assert row(memory)[1:3] == (1, 0)


@pytest.mark.parametrize(
    "call", ["os.execv(path, argv)", "os.execve(path=path, argv=argv, env={})", "os.execlp(path, *argv)"]
)
def test_a_program_that_is_executed_sends_no_heartbeat(call: str, tmp_path: Path, memory: int) -> None:
    path = write(
        tmp_path / "executes.py",
        f"""
        import os, sys
        from cluster_service.worker.runtime import current
        path, argv = sys.executable, [sys.executable, "-c", "print('executed')"]
        current().heartbeat.beat_without_loop()
        print("beats", current().heartbeat._cells[0] > 0)
        {call}
        """,
    )
    with worker(memory, "script", path) as each:
        assert each.wait() == 0, each.output
        assert each.lines == ["beats True", "executed"]
        assert row(memory)[0] == 0


@pytest.mark.parametrize("place", ["", "nonsense", "99", "0", "3:1"])
def test_a_worker_does_without(place: str, tmp_path: Path) -> None:
    source = "from cluster_service.worker.runtime import current\ncurrent().heartbeat.beat(1)"
    path = write(tmp_path / "main.py", source)
    with Worker("script", path, env={"CSERVICE_BOARD": place}) as each:
        assert each.wait() == 0, each.output
