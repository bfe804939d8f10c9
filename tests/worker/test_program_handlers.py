"""The program's own handlers of SIGTERM: when they run, and what the program sees of the gate before them."""

from __future__ import annotations

import contextlib
import importlib.util
import socket
import sys
from typing import TYPE_CHECKING

import pytest

from tests.worker.harness import DEADLINE, Worker, write

if TYPE_CHECKING:
    from pathlib import Path

SERVER = """
import asyncio, os, signal, sys, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        print("begun", flush=True)
        body = self.rfile.read(2)
        print("answered", flush=True)
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args):
        pass
def end(*args):
    print("handler", flush=True)
    os._exit(3)
server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print("port", server.server_port, flush=True)
"""

IN_A_LOOP = """
threading.Thread(target=server.serve_forever, daemon=True).start()
async def main():
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, end)
    print("set", flush=True)
    await asyncio.Event().wait()
"""

WAYS = {
    "signal": "signal.signal(signal.SIGTERM, end)\nprint('set', flush=True)\nserver.serve_forever()\n",
    "asyncio": IN_A_LOOP + "asyncio.run(main())\n",
    "uvloop": IN_A_LOOP + "import uvloop\nuvloop.run(main())\n",
}


def await_stop(port: int) -> None:
    """Return when the worker accepts no connection any more: then its stop has begun."""
    with contextlib.suppress(ConnectionRefusedError, ConnectionResetError):
        while True:
            socket.create_connection(("127.0.0.1", port), DEADLINE).close()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("announce", [True, False])
def test_a_handler_runs_once_the_requests_are_answered(way: str, announce: bool, python: str, tmp_path: Path) -> None:
    if way == "uvloop" and (python != sys.executable or not importlib.util.find_spec("uvloop")):
        pytest.skip("uvloop is not installed there")
    script = write(tmp_path / "worker.py", SERVER + WAYS[way])
    with Worker("script", script, python=python) as worker:
        port = int(worker.line("port").split()[1])
        worker.line("set")
        with socket.create_connection(("127.0.0.1", port), DEADLINE) as client:
            client.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n1")
            worker.line("begun")
            worker.stop(announce=announce)
            await_stop(port)
            client.sendall(b"2")
            answer = b"".join(iter(lambda: client.recv(65536), b""))
        assert worker.wait() == 3, worker.output
        assert b"Connection: close" in answer
        assert answer.endswith(b"12")
        assert worker.lines[-3:] == ["begun", "answered", "handler"]


def test_the_cleanup_runs_after_the_requests(python: str, tmp_path: Path) -> None:
    cleanup = "import cluster_service as c\nc.worker_ready(on_worker_stop=lambda: os.write(1, b'cleanup\\n'))\n"
    ends = "def end(*args):\n    os.write(1, b'handler\\n')\n    sys.exit(0)\n"
    script = write(tmp_path / "worker.py", SERVER + cleanup + ends + WAYS["signal"])
    with Worker("script", script, python=python) as worker:
        port = int(worker.line("port").split()[1])
        worker.line("set")
        with socket.create_connection(("127.0.0.1", port), DEADLINE) as client:
            client.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n1")
            worker.line("begun")
            worker.stop()
            await_stop(port)
            client.sendall(b"2")
            assert client.recv(65536)
            assert worker.wait() == 0, worker.output
        assert worker.lines.index("answered") < worker.lines.index("cleanup")


def test_the_program_sees_its_own_handlers(python: str, tmp_path: Path) -> None:
    script = write(
        tmp_path / "worker.py",
        """
        import signal
        def one(*args): pass
        def other(*args): pass
        first = signal.signal(signal.SIGTERM, one)
        print(signal.getsignal(signal.SIGTERM) is one)
        print(signal.signal(signal.SIGTERM, other) is one)
        print(signal.signal(signal.SIGTERM, first) is other)
        print(signal.getsignal(signal.SIGTERM) == first)
        """,
    )
    with Worker("script", script, python=python) as worker:
        assert worker.wait() == 0, worker.output
        assert worker.lines == ["True"] * 4


def test_a_forked_child_has_its_handler_at_once(python: str, tmp_path: Path) -> None:
    script = write(
        tmp_path / "worker.py",
        """
        import os, signal, socket
        listener = socket.create_server(("127.0.0.1", 0))
        client = socket.create_connection(listener.getsockname())
        accepted = listener.accept()[0]
        signal.signal(signal.SIGTERM, lambda *_: os._exit(7))
        pid = os.fork()
        if not pid:
            os.kill(os.getpid(), signal.SIGTERM)
            os._exit(1)
        print(os.WEXITSTATUS(os.waitpid(pid, 0)[1]))
        """,
    )
    with Worker("script", script, python=python) as worker:
        assert worker.wait() == 0, worker.output
        assert worker.lines[-1] == "7"  # early 3.13 warns of the fork
