"""How fast connections are accepted, and what a stranger's connection is good for."""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING

import pytest

from cluster_service.control.listener import Pace
from tests.control.machine import KEY, Running, running

if TYPE_CHECKING:
    from pathlib import Path

LIVE = b"GET /live HTTP/1.1\r\nHost: localhost\r\n\r\n"
HEALTH = LIVE.replace(b"/live", b"/api/v1/health")


def test_a_pace() -> None:
    pace = Pace(10.0, 3)
    assert [pace.wait(7.0) for _ in range(3)] == [0.0] * 3
    assert pace.wait(7.0) == pytest.approx(0.1)
    assert pace.wait(7.04) == pytest.approx(0.06)
    assert pace.wait(7.11) == 0.0
    assert pace.wait(7.11) > 0.0
    assert [pace.wait(1000.0) for _ in range(4)][:3] == [0.0] * 3  # it gathers no more than the burst
    assert pace.wait(1000.0) > 0.0


def ask(service: Running, request: bytes, *, owner: bool = False) -> bytes:
    """Everything that comes back, until it hangs up."""
    with socket.socket(socket.AF_UNIX if owner else socket.AF_INET) as connection:
        connection.settimeout(20)
        connection.connect(str(service.unix) if owner else ("127.0.0.1", service.port))
        connection.sendall(request)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def test_who_comes_too_fast_waits(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster_service.control.http.RATE", 50.0)
    monkeypatch.setattr("cluster_service.control.http.BURST", 5)
    with running(run_dir) as service:
        began = time.monotonic()
        for _ in range(15):
            assert ask(service, LIVE).startswith(b"HTTP/1.1 200 ")
        assert time.monotonic() - began >= 10 / 50.0 - 0.02


def test_the_owner_never_waits(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster_service.control.http.RATE", 0.001)
    monkeypatch.setattr("cluster_service.control.http.BURST", 1)
    with running(run_dir) as service:
        assert ask(service, LIVE).startswith(b"HTTP/1.1 200 ")
        last = LIVE.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
        assert [ask(service, last, owner=True)[:12] for _ in range(20)] == [b"HTTP/1.1 200"] * 20


@pytest.mark.parametrize(
    "request_",
    [
        LIVE,
        LIVE.replace(b"/live", b"/"),
        LIVE.replace(b"localhost", b"evil"),
        LIVE.replace(b"/live", b"/nosuch"),
        HEALTH,
        HEALTH.replace(b"\r\n\r\n", b"\r\nX-Access-Key: wrong\r\n\r\n"),
    ],
)
def test_an_answer_without_a_key_is_the_connection_s_last(service: Running, request_: bytes) -> None:
    assert ask(service, request_ * 3).count(b"HTTP/1.1 ") == 1


def test_who_has_a_key_keeps_the_connection(service: Running) -> None:
    request = HEALTH.replace(b"\r\n\r\n", b"\r\nX-Access-Key: " + KEY.encode() + b"\r\n\r\n")
    last = request.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    assert ask(service, request + request + last).count(b"HTTP/1.1 200 ") == 3
