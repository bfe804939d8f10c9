"""Programs on ``socketserver``, unmodified: http.server, its relatives, and Flask's development server."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from typing import TYPE_CHECKING

import pytest

from tests.tools.ports import free_port
from tests.worker.harness import DEADLINE, KeepAlive, Ports, Worker, get, write
from tests.worker.load import Load

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HTTP = """
import sys, http.server, socketserver, threading
from http.server import BaseHTTPRequestHandler

gate = threading.Event()

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        if self.path == "/slow":
            print("slow", flush=True)
            sys.stdin = open(sys.argv[2])  # until the test opens it
        if self.path == "/held":
            self.send_response(200); self.send_header("Content-Length", "2"); self.end_headers()
            print("half", flush=True)
            open(sys.argv[2]).read()
            self.wfile.write(b"ok")
            return
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")
    def log_message(self, *args):
        pass
"""

SERVERS = {
    "threads": "http.server.ThreadingHTTPServer(address, Handler).serve_forever()",
    "one at a time": "http.server.HTTPServer(address, Handler).serve_forever()",
    "forks": """
class Forking(socketserver.ForkingMixIn, http.server.HTTPServer): pass
Forking(address, Handler).serve_forever()""",
    "beside": """
server = http.server.ThreadingHTTPServer(address, Handler)
thread = threading.Thread(target=server.serve_forever)
thread.start()
thread.join()""",
    "one call each": """
server = http.server.HTTPServer(address, Handler)
Handler.protocol_version = "HTTP/1.0"
while True:
    server.handle_request()""",
    "threads that are waited for": """
class Joined(socketserver.ThreadingMixIn, http.server.HTTPServer): daemon_threads = False
with Joined(address, Handler) as server:
    server.serve_forever()""",
}


def program(tmp_path: Path, kind: str) -> str:
    address = 'address = ("127.0.0.1", int(sys.argv[1]))\n'
    return write(tmp_path / "worker.py", HTTP + address + SERVERS[kind] + "\n")


@contextlib.contextmanager
def serving(script: str, *args: str, python: str | None = None, ports: Ports, port: int) -> Iterator[Worker]:
    """A worker that serves; it shares *port* with the others of *ports*."""
    count = sum(request["type"] == "listen" for request in ports.requests)
    python = python or sys.executable
    with Worker("script", script, str(port), *args, share="python", ports=ports, python=python) as worker:
        ports.wait(lambda requests: sum(request["type"] == "listen" for request in requests) > count)
        yield worker


@pytest.mark.parametrize("kind", SERVERS)
def test_no_request_is_lost_when_workers_take_turns(tmp_path: Path, kind: str) -> None:
    script, port = program(tmp_path, kind), free_port()
    one_at_a_time = kind in ("one at a time", "one call each")
    with Ports() as ports, contextlib.ExitStack() as stack:
        workers = [stack.enter_context(serving(script, ports=ports, port=port)) for _ in range(2)]
        with Load(port, new=3, keep=0 if one_at_a_time else 2) as load:
            for _ in range(4):
                load.wait(50)
                workers.append(stack.enter_context(serving(script, ports=ports, port=port)))
                oldest = workers.pop(0)
                oldest.stop()
                assert oldest.wait() == 0, oldest.output
                assert oldest.output == ""
            load.wait(50)
        assert not load.failures
        for worker in workers:
            worker.stop()
            assert worker.wait() == 0, worker.output


def test_every_python_drains(python: str, tmp_path: Path) -> None:
    script, port = program(tmp_path, "threads"), free_port()
    with (
        Ports() as ports,
        serving(script, python=python, ports=ports, port=port) as first,
        serving(script, python=python, ports=ports, port=port),
    ):
        with Load(port) as load:
            load.wait(20)
            first.stop()
            assert first.wait() == 0, first.output
            load.wait(20)
        assert not load.failures
        assert first.output == ""


@pytest.mark.parametrize("kind", ["threads", "one at a time", "forks", "beside"])
def test_what_is_held_is_answered(tmp_path: Path, kind: str) -> None:
    """A slow request, a connection whose request has not come, and one that is idle: all at the moment of the stop."""
    script, port = program(tmp_path, kind), free_port()
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with Ports() as ports, serving(script, str(fifo), ports=ports, port=port) as worker:
        with KeepAlive(port) as slow:
            slow.send("/slow")
            worker.line("slow")
            worker.stop()
            with open(fifo, "w"):
                pass
            status, headers, body = slow.receive()
            assert (status, body) == (200, b"ok")
            assert headers.get("connection") == "close" or slow.closed()  # where the answer was faster than the stop
        assert worker.wait() == 0, worker.output


def test_a_connection_that_has_not_asked_yet_is_answered(tmp_path: Path) -> None:
    script, port = program(tmp_path, "threads"), free_port()
    with (
        Ports() as ports,
        serving(script, ports=ports, port=port) as worker,
        KeepAlive(port) as new,
        KeepAlive(port) as other,
    ):
        assert other.ask()[2] == b"ok"  # accepted later than the first
        worker.stop()
        while "connection" not in other.ask()[1]:
            pass  # the stop has not begun yet
        status, headers, body = new.ask()
        assert (status, headers["connection"], body) == (200, "close", b"ok")
        assert worker.wait() == 0, worker.output


def test_an_idle_client_delays_nobody(tmp_path: Path) -> None:
    script, port = program(tmp_path, "one at a time"), free_port()
    with Ports() as ports, serving(script, ports=ports, port=port) as worker, KeepAlive(port) as idle:
        assert idle.ask()[2] == b"ok"
        worker.stop()
        assert idle.closed()
        assert worker.wait() == 0, worker.output


def test_an_answer_that_has_begun_is_finished_and_its_client_may_ask_again(tmp_path: Path) -> None:
    script, port = program(tmp_path, "threads"), free_port()
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with Ports() as ports, serving(script, str(fifo), ports=ports, port=port) as worker, KeepAlive(port) as client:
        client.send("/held")
        worker.line("half")
        with KeepAlive(port) as idle:
            idle.ask()
            worker.stop()
            assert idle.closed()  # the stop has begun
        with open(fifo, "w"):
            pass
        _, headers, body = client.receive()
        assert (headers.get("connection"), body) == (None, b"ok")
        _, headers, body = client.ask()
        assert (headers.get("connection"), body) == ("close", b"ok")
        assert worker.wait() == 0, worker.output


def test_the_cleanup_comes_after_the_last_answer(tmp_path: Path) -> None:
    script = write(
        tmp_path / "worker.py",
        HTTP
        + """
import cluster_service, threading
server = http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
def cleanup():
    print("cleanup", threading.current_thread() is threading.main_thread())
cluster_service.worker_ready(on_worker_stop=cleanup)
try:
    server.serve_forever()
finally:
    print("finally")
""",
    )
    port = free_port()
    with Ports() as ports, serving(script, ports=ports, port=port) as worker:
        assert get(port).endswith(b"ok")
        worker.stop()
        assert worker.wait() == 0, worker.output
        assert worker.lines == ["cleanup True", "finally"]


def test_nobody_stays_in_accept(tmp_path: Path) -> None:
    """All workers are told of one connection, one gets it: the others must be able to stop."""
    script, port = program(tmp_path, "one at a time"), free_port()
    with Ports() as ports, contextlib.ExitStack() as stack:
        workers = [stack.enter_context(serving(script, ports=ports, port=port)) for _ in range(4)]
        for _ in range(50):
            assert get(port).endswith(b"ok")
        for worker in workers:
            worker.stop()
        assert [worker.wait() for worker in workers] == [0, 0, 0, 0]


def test_datagrams(tmp_path: Path) -> None:
    script = write(
        tmp_path / "worker.py",
        """
        import socketserver, sys
        class Echo(socketserver.BaseRequestHandler):
            def handle(self):
                data, server = self.request
                server.sendto(data, self.client_address)
        server = socketserver.UDPServer(("127.0.0.1", int(sys.argv[1])), Echo)
        print("up")
        server.serve_forever()
        """,
    )
    port = free_port()
    with Ports() as ports, contextlib.ExitStack() as stack, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        workers = [
            stack.enter_context(Worker("script", script, str(port), share="python", ports=ports)) for _ in range(2)
        ]
        client.settimeout(DEADLINE)
        for worker in workers:
            worker.line("up")
        for number in range(50):
            client.sendto(b"%d" % number, ("127.0.0.1", port))
            assert client.recv(10) == b"%d" % number
        for worker in workers:
            worker.stop()
        assert [worker.wait() for worker in workers] == [0, 0]


def test_flask(tmp_path: Path) -> None:
    pytest.importorskip("flask")
    script = write(
        tmp_path / "worker.py",
        """
        import sys, flask, logging
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        app = flask.Flask(__name__)
        @app.get("/")
        def index():
            return "ok"
        app.run(port=int(sys.argv[1]))
        """,
    )
    port = free_port()
    with Ports() as ports, contextlib.ExitStack() as stack:
        workers = [stack.enter_context(serving(script, ports=ports, port=port)) for _ in range(2)]
        with Load(port, new=3, keep=0) as load:
            load.wait(50)
            workers[0].stop()
            assert workers[0].wait() == 0, workers[0].output
            load.wait(50)
        assert not load.failures
        workers[1].stop()
        assert workers[1].wait() == 0, workers[1].output


def test_a_handler_of_the_programs_own_ends_it_in_its_own_way(tmp_path: Path) -> None:
    script = write(
        tmp_path / "worker.py",
        HTTP
        + """
import signal
server = http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
server.serve_forever()
print("after")
""",
    )
    port = free_port()
    with Ports() as ports, serving(script, ports=ports, port=port) as worker:
        assert get(port).endswith(b"ok")
        worker.stop()
        assert worker.wait() == 0, worker.output
        assert worker.lines == ["after"]
