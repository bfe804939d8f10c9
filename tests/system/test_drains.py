"""What clients notice of a worker's end: nothing, or an end in good order."""

from __future__ import annotations

import select
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests.tools.ports import free_port
from tests.tools.service import DEADLINE, Service

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import BinaryIO

STOP_TIMEOUT = 60.0
"""Seconds: the default."""
PROGRAMS = Path(__file__).parent.parent / "programs"


def app(target: str, port: int, *options: str) -> list[str]:
    return [*options, "--bind", f"127.0.0.1:{port}", target]


KINDS: dict[str, Callable[[int], list[str]]] = {
    "uvicorn": lambda port: app("slow_app:app", port),
    "granian": lambda port: app("slow_app:app", port, "--server", "granian"),
    "wsgi on uvicorn": lambda port: app("slow_wsgi:app", port),
    "wsgi on granian": lambda port: app("slow_wsgi:app", port, "--server", "granian"),
    "uvicorn.run": lambda port: ["slow_uvicorn.py", str(port)],
    "http.server": lambda port: ["slow_http_server.py", str(port)],
    "flask": lambda port: ["slow_flask.py", str(port)],
    "asyncio": lambda port: ["slow_asyncio.py", str(port)],
    "gevent": lambda port: ["slow_gevent.py", str(port)],
    "gevent with a handler": lambda port: ["slow_gevent.py", str(port), "handler"],
    "eventlet": lambda port: ["slow_eventlet.py", str(port)],
    "tornado": lambda port: ["slow_tornado.py", str(port)],
    "twisted": lambda port: ["slow_twisted.py", str(port)],
    "waitress": lambda port: ["slow_waitress.py", str(port)],
    "aiohttp": lambda port: ["slow_aiohttp.py", str(port)],
    "django": lambda port: ["slow_django.py", str(port)],
    "a handler of its own": lambda port: ["slow_handler.py", str(port)],
}

NEVER_KEEP = ("flask", "asyncio")
"""Programs that close each connection after its answer."""

ASGI = ("uvicorn", "granian", "uvicorn.run")


def service(kind: str, port: int, *options: str, workers: int = 2) -> Service:
    return Service("-w", str(workers), "--ready-after", "60s", *options, *KINDS[kind](port), cwd=PROGRAMS)


@pytest.mark.parametrize("kind", ["gevent", "eventlet"])
def test_green_sockets_are_shared_without_the_kernel_s_help(kind: str) -> None:
    port = free_port()
    with service(kind, port, "--share", "python") as running:
        running.serving(2)
        assert [each["listening"] for each in running.workers()] == [[f"127.0.0.1:{port}"]] * 2


def send(port: int, head: str) -> socket.socket:
    """Send the head of a request on a connection of its own."""
    client = socket.create_connection(("127.0.0.1", port), DEADLINE)
    client.sendall(f"{head}\r\nHost: localhost\r\n\r\n".encode() if "\r\n" not in head else head.encode())
    return client


def rest(client: socket.socket) -> bytes:
    """Everything that comes, to the end of the connection."""
    data = bytearray()
    while part := client.recv(65536):
        data += part
    return bytes(data)


@pytest.mark.parametrize("kind", KINDS)
def test_slow_requests_in_flight_are_answered(kind: str) -> None:
    port = free_port()
    with service(kind, port) as running:
        running.serving(2)
        with ThreadPoolExecutor(20) as pool:
            clients = [send(port, "GET /slow HTTP/1.1") for _ in range(20)]
            answers = pool.map(rest, clients)
            accepted(port, 20)
            running.process.send_signal(signal.SIGTERM)
            found = [answer.split(b"\r\n", 1)[0] for answer in answers]
        for client in clients:
            client.close()
        assert [line.split(b" ", 1)[1] for line in found] == [b"200 OK"] * 20
        assert running.ended() == 0


def accepted(port: int, count: int) -> None:
    """Wait until *count* connections to *port* are a worker's own: none of them waits in the queue."""
    waiting, most = threading.Event(), 0
    for _ in range(int(DEADLINE / 0.01)):
        queued, established = connections(port)
        if not queued and (established >= count or established < most):  # fewer: the first are answered already
            return
        most = max(most, established)
        waiting.wait(0.01)  # the kernel's table is all there is to look at
    raise AssertionError("the connections were not accepted")


def connections(port: int) -> tuple[int, int]:
    """Those to *port* that wait in its queue, and all of them (proc(5), /proc/net/tcp; a listener's rx_queue)."""
    queued = established = 0
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, _, state, queues, *_ = line.split()
        if local.endswith(f":{port:04X}"):
            queued += int(queues.split(":")[1], 16) if state == "0A" else 0
            established += state == "01"
    return queued, established


@pytest.mark.parametrize("kind", KINDS)
def test_an_upload_under_way_is_finished(kind: str) -> None:
    port = free_port()
    with service(kind, port) as running:
        running.serving(2)
        head = "POST /upload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 200000\r\n\r\n"
        with send(port, head) as client:
            client.sendall(b"x" * 100_000)
            accepted(port, 1)
            running.process.send_signal(signal.SIGTERM)
            running.until_event("worker_stop", 2)
            client.sendall(b"x" * 100_000)
            answer = rest(client)
        assert answer.startswith((b"HTTP/1.1 200", b"HTTP/1.0 200")), answer
        assert answer.endswith(b"200000")
        assert running.ended() == 0


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in (*NEVER_KEEP, "gevent with a handler")])
def test_a_busy_kept_connection_does_not_hold_a_stop(kind: str) -> None:
    port = free_port()
    with service(kind, port, workers=1) as running:
        running.serving(1)
        with send(port, "GET / HTTP/1.1") as client, client.makefile("rb") as answers:
            assert read_answer(answers)
            running.process.send_signal(signal.SIGTERM)
            began = time.monotonic()
            pause = threading.Event()
            while not pause.wait(0.05) and not at_end(client):
                client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
                headers = read_answer(answers)
                assert headers, "a request was sent before the end of the connection, and not answered"
                if b"connection: close" in headers.lower():
                    break
            assert client.recv(1) == b""
        assert running.ended() == 0
        assert time.monotonic() - began < STOP_TIMEOUT / 2
        assert not [event for event in running.events if event["type"] == "worker_kill"]


def read_answer(answers: BinaryIO) -> bytes:
    """The head of the next answer; its body is read, too. Empty: the connection has ended."""
    head = b""
    while (line := answers.readline()) not in (b"\r\n", b""):
        head += line
    lengths = [int(line.split(b":")[1]) for line in head.splitlines() if line.lower().startswith(b"content-length")]
    answers.read(*lengths or [int(answers.readline() or b"0", 16) + len(b"\r\n0\r\n\r\n")])
    return head


def at_end(client: socket.socket) -> bool:
    """Whether the server has closed the connection by now, which has no answer under way."""
    return bool(select.select([client], [], [], 0)[0]) and client.recv(1, socket.MSG_PEEK) == b""


def test_a_program_that_shuts_the_listening_socket_down_leaves_it_to_the_others() -> None:
    port = free_port()
    with service("a handler of its own", port) as running:
        running.serving(2)
        assert running.cli("restart", "web.1").code == 0
        assert "the program's handler runs" in running.log
        for _ in range(2 * len(running.serving(2))):
            with send(port, "GET /upload HTTP/1.0") as client:
                assert rest(client).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("kind", [*ASGI, "tornado", "twisted"])
def test_a_stream_of_events_is_ended_in_good_order(kind: str) -> None:
    port = free_port()
    with service(kind, port, "--stop-timeout", "30s") as running:
        running.serving(2)
        with send(port, "GET /events HTTP/1.1") as client:
            data = b""
            while b"data: 10\n" not in data:  # from here on the app is silent
                data += client.recv(65536)
            running.process.send_signal(signal.SIGTERM)
            data += rest(client)
        assert data.endswith(b"0\r\n\r\n"), "the last chunk: the answer is whole"
        assert running.ended() == 0
        stops = [event["at"] for event in running.events if event["type"] == "worker_kill"]
        assert stops == []
        assert kind not in ASGI or "the lifespan has ended" in running.log


@pytest.mark.parametrize("kind", ASGI)
def test_a_websocket_is_closed_with_1001(kind: str) -> None:
    port = free_port()
    with service(kind, port, "--stop-timeout", "30s") as running:
        running.serving(2)
        with connect(f"ws://127.0.0.1:{port}/") as client:
            client.send("hello")
            assert client.recv() == "hello"
            running.process.send_signal(signal.SIGTERM)
            with pytest.raises(ConnectionClosed) as closed:
                client.recv(DEADLINE)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1001
        assert running.ended() == 0
        if kind != "granian":  # which tells an app nothing of a close of its own, so the app is cancelled
            assert "the WebSocket was closed with" in running.log


@pytest.mark.parametrize("kind", ASGI)
def test_a_restart_ends_streams_and_the_client_resumes(kind: str) -> None:
    port = free_port()
    with service(kind, port, workers=1) as running:
        running.serving(1)
        with send(port, "GET /events HTTP/1.1") as client:
            client.recv(10)
            assert running.cli("restart", "all").code == 0
            assert rest(client).endswith(b"0\r\n\r\n")
        with send(port, "GET /events HTTP/1.1") as client:
            assert client.recv(15) == b"HTTP/1.1 200 OK"


def test_a_second_signal_means_now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECONDS", "3600")
    port = free_port()
    with service("uvicorn", port) as running:
        running.serving(2)
        with send(port, "GET /slow HTTP/1.1") as client:
            accepted(port, 1)
            running.process.send_signal(signal.SIGTERM)
            running.until_event("worker_stop", 2)
            threading.Event().wait(0.3)  # two within a quarter of a second are one: timeout(1) sends it twice
            running.process.send_signal(signal.SIGTERM)
            assert rest(client) == b""
        assert running.ended() == 0
