"""uvicorn: as the server of an app target, and in scripts that call ``uvicorn.run`` themselves."""

from __future__ import annotations

import contextlib
import importlib.util
import socket
from typing import TYPE_CHECKING

import pytest

from tests.tools.ports import free_port
from tests.worker.harness import KeepAlive, Ports, Worker, get, write
from tests.worker.load import Load

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

APP = """
import asyncio, os

gate = asyncio.Event()

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                print("lifespan over")
                return
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        print("websocket", (await receive())["type"])
        return
    path = scope["path"]
    if path == "/slow":
        print("slow")
        await asyncio.get_running_loop().run_in_executor(None, lambda: open(os.environ["FIFO"]).read())
    if path == "/held":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        print("half")
        await asyncio.get_running_loop().run_in_executor(None, lambda: open(os.environ["FIFO"]).read())
        await send({"type": "http.response.body", "body": b"ok"})
        return
    if path == "/endless":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"first", "more_body": True})
        print("endless")
        try:
            await asyncio.Event().wait()
        finally:
            print("cancelled")
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})
"""

SCRIPT = """
import socket, sys, threading, uvicorn
port, parser, loop = int(sys.argv[1]), sys.argv[2], sys.argv[3]
if loop == "uvloop":
    import uvloop
    asyncio.run = uvloop.run
listeners = []
def make():
    listeners.append(socket.create_server(("127.0.0.1", port)))
    return uvicorn.Server(uvicorn.Config(app, log_level="warning", http=parser, loop=loop))
"""

KINDS = {
    "uvicorn.run": 'uvicorn.run(app, port=port, log_level="warning", http=parser, loop=loop)',
    "Server.run": "make().run(sockets=listeners)",
    "a thread": """
server = make()
thread = threading.Thread(target=server.run, args=(listeners,))
thread.start()
thread.join()
""",
    "one task of many": """
async def main():
    await asyncio.gather(make().serve(sockets=listeners), asyncio.Event().wait())
asyncio.run(main())
""",
    "the only task": """
async def main():
    await make().serve(sockets=listeners)
asyncio.run(main())
""",
}

LOOPS = ["asyncio"] + (["uvloop"] if importlib.util.find_spec("uvloop") else [])
PARSERS = ["h11"] + (["httptools"] if importlib.util.find_spec("httptools") else [])


class RunningServer:
    """Workers of one program on one port."""

    def __init__(self, stack: contextlib.ExitStack, cwd: Path, ports: Ports, *argv: str, **env: str) -> None:
        self.stack, self.cwd, self.ports, self.argv, self.env = stack, cwd, ports, argv, env

    def start(self) -> Worker:
        """Another worker; returns when it serves."""
        count = sum(request["type"] == "listen" for request in self.ports.requests)
        worker = self.stack.enter_context(
            Worker(*self.argv, share="python", ports=self.ports, cwd=self.cwd, env=self.env)
        )
        self.ports.wait(lambda requests: sum(request["type"] == "listen" for request in requests) > count)
        if self.argv[0] == "app":
            worker.ready()
        return worker


@pytest.fixture
def stack() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


@pytest.fixture
def ports(stack: contextlib.ExitStack) -> Ports:
    return stack.enter_context(Ports())


@pytest.fixture
def port() -> int:
    return free_port()


def as_app(
    stack: contextlib.ExitStack, tmp_path: Path, ports: Ports, port: int, *, more: str = "", **env: str
) -> RunningServer:
    write(tmp_path / "served.py", APP + more)
    return RunningServer(stack, tmp_path, ports, "app", "served:app", "uvicorn", f"127.0.0.1:{port}", **env)


@pytest.mark.parametrize("parser", PARSERS)
@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("kind", KINDS)
def test_scripts_lose_no_request(
    tmp_path: Path, stack: contextlib.ExitStack, ports: Ports, port: int, kind: str, parser: str, loop: str
) -> None:
    script = write(tmp_path / "worker.py", APP + SCRIPT + KINDS[kind])
    serving = RunningServer(stack, tmp_path, ports, "script", script, str(port), parser, loop)
    workers = [serving.start(), serving.start()]
    with Load(port) as load:
        for _ in range(3):
            load.wait(100)
            workers.append(serving.start())
            oldest = workers.pop(0)
            oldest.stop()
            assert oldest.wait() == 0, oldest.output
            assert oldest.output == "lifespan over"
        load.wait(100)
    assert not load.failures


def test_apps_lose_no_request(tmp_path: Path, stack: contextlib.ExitStack, ports: Ports, port: int) -> None:
    serving = as_app(stack, tmp_path, ports, port)
    workers = [serving.start(), serving.start()]
    with Load(port) as load:
        for _ in range(5):
            load.wait(100)
            workers.append(serving.start())
            oldest = workers.pop(0)
            oldest.stop()
            assert oldest.wait() == 0, oldest.output
        load.wait(100)
    assert not load.failures
    assert "Traceback" not in oldest.output


def test_everything_held_at_the_stop_is_answered(
    tmp_path: Path, stack: contextlib.ExitStack, ports: Ports, port: int, fifo: Path
) -> None:
    worker = as_app(stack, tmp_path, ports, port, FIFO=str(fifo)).start()
    with KeepAlive(port) as new, KeepAlive(port) as idle, KeepAlive(port) as slow, KeepAlive(port) as half:
        assert idle.ask()[2] == b"ok"
        slow.send("/slow")
        worker.line("slow")
        half.send("/held")
        worker.line("half")
        worker.stop()
        assert idle.closed()
        answer = new.ask()
        assert (answer[0], answer[1]["connection"], answer[2]) == (200, "close", b"ok")
        with open(fifo, "w"), open(fifo, "w"):
            pass
        answer = slow.receive()
        assert (answer[0], answer[1]["connection"], answer[2]) == (200, "close", b"ok")
        assert half.receive()[2] == b"ok"  # its head was sent before the stop, so its client may ask again
        assert half.ask()[1]["connection"] == "close"
        assert worker.wait() == 0, worker.output
    assert "lifespan over" in worker.output


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    import os

    path = tmp_path / "fifo"
    os.mkfifo(path)
    return path


def test_a_stream_without_end_is_ended_in_time(
    tmp_path: Path, stack: contextlib.ExitStack, ports: Ports, port: int
) -> None:
    worker = as_app(stack, tmp_path, ports, port).start()
    with KeepAlive(port) as client:
        client.send("/endless")
        worker.line("endless")
        worker.stop(1.0)
        assert worker.wait() == 0, worker.output
    assert "cancelled" in worker.lines
    assert "lifespan over" in worker.lines


def test_websockets_are_closed_going_away(tmp_path: Path, stack: contextlib.ExitStack, ports: Ports, port: int) -> None:
    pytest.importorskip("websockets")
    worker = as_app(stack, tmp_path, ports, port).start()
    with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
        client.sendall(
            b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        received = client.recv(4096)
        assert received.startswith(b"HTTP/1.1 101")
        worker.stop()
        rest = received.partition(b"\r\n\r\n")[2] + b"".join(iter(lambda: client.recv(4096), b""))
        assert rest[:1] == b"\x88"  # a close frame
        assert int.from_bytes(rest[2:4], "big") == 1001
    assert worker.wait() == 0, worker.output
    assert "websocket websocket.disconnect" in worker.lines


def test_the_cleanup_runs_on_the_servers_loop_after_the_lifespan(
    tmp_path: Path, stack: contextlib.ExitStack, ports: Ports, port: int
) -> None:
    more = """
import cluster_service
async def cleanup():
    print("cleanup", asyncio.get_running_loop() is loops[0])
loops = []
inner = app
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        loops.append(asyncio.get_running_loop())
    await inner(scope, receive, send)
cluster_service.worker_ready(False, on_worker_stop=cleanup)
"""
    write(tmp_path / "served.py", APP + more)
    worker = stack.enter_context(
        Worker("app", "served:app", "uvicorn", f"127.0.0.1:{port}", share="python", ports=ports, cwd=tmp_path)
    )
    assert worker.message() == {"type": "ready", "ready": False}
    worker.line("Uvicorn running on")  # and is not told to be ready: the app has said that it is not
    worker.stop()
    assert worker.wait() == 0, worker.output
    assert worker.message() is None
    assert [line for line in worker.lines if line.startswith(("cleanup", "lifespan"))] == [
        "lifespan over",
        "cleanup True",
    ]


def test_a_lifespan_that_fails_is_a_start_that_fails(tmp_path: Path) -> None:
    pytest.importorskip("starlette")
    write(
        tmp_path / "served.py",
        """
        import contextlib
        from starlette.applications import Starlette
        @contextlib.asynccontextmanager
        async def lifespan(app):
            raise ValueError("no database")
            yield
        app = Starlette(lifespan=lifespan)
        """,
    )
    with Worker("app", "served:app", "uvicorn", f"127.0.0.1:{free_port()}", cwd=tmp_path) as worker:
        assert worker.wait() == 3, worker.output
        assert worker.message() is None
    assert "ValueError: no database" in worker.output


def test_two_addresses_one_of_them_a_path(tmp_path: Path, stack: contextlib.ExitStack) -> None:
    write(tmp_path / "served.py", APP)
    port, path = free_port(), tmp_path / "app.sock"
    worker = stack.enter_context(Worker("app", "served:app", "uvicorn", f"127.0.0.1:{port},unix:{path}", cwd=tmp_path))
    worker.ready()
    assert get(port).endswith(b"ok")
    assert path.stat().st_mode & 0o777 == 0o666
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert b"".join(iter(lambda: client.recv(4096), b"")).endswith(b"ok")
    worker.stop()
    assert worker.wait() == 0
    again = stack.enter_context(Worker("app", "served:app", "uvicorn", f"unix:{path}", cwd=tmp_path))
    again.ready()  # although the file was left behind
    again.stop()
    assert again.wait() == 0


def test_inherited_sockets(tmp_path: Path) -> None:
    write(tmp_path / "served.py", APP)
    with socket.create_server(("127.0.0.1", 0)) as held, contextlib.ExitStack() as stack:
        script = write(
            tmp_path / "exec.py",
            """
            import os, sys
            os.dup2(int(sys.argv[1]), 3)
            os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
            os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
            """,
        )
        worker = stack.enter_context(
            Worker(
                "app", "served:app", "uvicorn", "127.0.0.1:1", cwd=tmp_path, share="inherit",
                pass_fds=[held.fileno()], before=(script, str(held.fileno())),
            )
        )  # fmt: skip
        worker.ready()
        assert get(held.getsockname()[1]).endswith(b"ok")
        worker.stop()
        assert worker.wait() == 0


def test_a_taken_port_is_told_in_a_sentence(tmp_path: Path) -> None:
    write(tmp_path / "served.py", APP)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with Worker("app", "served:app", "uvicorn", f"127.0.0.1:{port}", cwd=tmp_path) as worker:
            assert worker.wait() == 3
        assert worker.output == f"cservice: cannot listen on 127.0.0.1:{port}: Address already in use"
