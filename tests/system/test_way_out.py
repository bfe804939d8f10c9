"""Programs that end at once on SIGTERM: their workers are replaced without losing a request."""

from __future__ import annotations

import signal
import socket
from pathlib import Path

from tests.tools.load import Load
from tests.tools.ports import free_port
from tests.tools.service import DEADLINE, PYTHON, Service

PROGRAMS = Path(__file__).parent.parent / "programs"


def program(port: int, *options: str, env: dict[str, str] | None = None) -> Service:
    """Workers without a handler of SIGTERM, which take 50 ms for an answer."""
    target = ["--", PYTHON, "http_server.py", str(port), "50"]
    return Service("-w", "2", "--ready-after", "60s", *options, *target, cwd=PROGRAMS, env=env)


def test_restarts_and_scaling_lose_no_request() -> None:
    port = free_port()
    with program(port) as running:
        running.serving(2)
        with Load(f"http://127.0.0.1:{port}/", rate=60, mode="new") as load:
            for command in (("restart", "all"), ("scale", "4"), ("scale", "2"), ("restart", "all")):
                done = running.cli(*command)
                assert done.code == 0, done.err
            found = load.finish()
        assert found.failed == 0, found
        assert found.ok > 0
        running.process.send_signal(signal.SIGTERM)
        assert running.ended() == 0
        assert "drain_timeout" not in running.log


def test_a_shutdown_answers_what_it_has_begun() -> None:
    port = free_port()
    with program(port) as running:
        running.serving(2)
        with socket.create_connection(("127.0.0.1", port), DEADLINE) as client:
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            running.process.send_signal(signal.SIGTERM)
            answer = b""
            while data := client.recv(65536):
                answer += data
        assert answer.startswith(b"HTTP/1.1 200")
        assert running.ended() == 0


def test_an_idle_connection_is_closed_and_does_not_hold_the_stop() -> None:
    port = free_port()
    with program(port, "--drain-timeout", "30s") as running:
        running.serving(2)
        with socket.create_connection(("127.0.0.1", port), DEADLINE) as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert client.recv(65536).startswith(b"HTTP/1.1 200")
            assert running.cli("restart", "all").code == 0
            while client.recv(65536):
                pass
        assert "drain_timeout" not in running.log


def test_where_connections_cannot_be_steered_one_socket_is_shared() -> None:
    port = free_port()
    with program(port, env={"CSERVICE_NO_STEERING": "1"}) as running:
        running.serving(2)
        assert running.cli("restart", "all").code == 0
        assert running.log.count("cannot be steered here") == 1
        with socket.create_connection(("127.0.0.1", port), DEADLINE) as client:
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            assert client.recv(65536).startswith(b"HTTP/1.1 200")
