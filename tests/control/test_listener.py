"""How fast connections are accepted, and what a stranger's connection is good for."""

from __future__ import annotations

import contextlib
import select
import socket
import time
from typing import TYPE_CHECKING

import pytest

from cluster_service.server import rate_limits
from tests.control.machine import KEY, Running, running

if TYPE_CHECKING:
    from pathlib import Path

LIVE = b"GET /live HTTP/1.1\r\nHost: localhost\r\n\r\n"
HEALTH = LIVE.replace(b"/live", b"/api/v1/health")
WELL = b"HTTP/1.1 200 "


def with_headers(request: bytes, *headers: str) -> bytes:
    return request.replace(b"\r\n\r\n", "".join(f"\r\n{header}" for header in headers).encode() + b"\r\n\r\n")


def limited(monkeypatch: pytest.MonkeyPatch, **limits: float) -> None:
    """Let the doors that are opened from now on have these limits."""
    for name, value in limits.items():
        monkeypatch.setattr(f"cluster_service.server.rate_limits.{name.upper()}", value)


def ask(service: Running, request: bytes, *, owner: bool = False, peer: str = "127.0.0.1") -> bytes:
    """Everything that comes back, until it hangs up."""
    with socket.socket(socket.AF_UNIX if owner else socket.AF_INET) as connection:
        connection.settimeout(20)
        if owner:
            connection.connect(str(service.unix))
        else:
            connection.bind((peer, 0))
            connection.connect(("127.0.0.1", service.port))
        try:
            connection.sendall(request)
            return b"".join(iter(lambda: connection.recv(65536), b""))
        except (ConnectionResetError, BrokenPipeError):  # it did not read what was sent
            return b""


def test_a_peer_that_comes_too_fast_is_hung_up_on_and_no_other(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limited(monkeypatch, peer_rate=0.001, peer_burst=3)
    monkeypatch.setattr("cluster_service.server.rate_limits.neighbourhood", str)  # else loopback is one peer
    with running(run_dir) as service:
        assert [ask(service, LIVE).startswith(WELL) for _ in range(5)] == [True] * 3 + [False] * 2
        assert ask(service, LIVE, peer="127.0.0.2").startswith(WELL)
        last = with_headers(LIVE, "Connection: close")
        assert all(ask(service, last, owner=True).startswith(WELL) for _ in range(9))


def test_who_has_a_key_does_not_count(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limited(monkeypatch, peer_rate=0.001, peer_burst=2, rate=0.001, burst=2)
    with running(run_dir) as service:
        request = with_headers(HEALTH, f"X-Access-Key: {KEY}")
        last = request + with_headers(request, "Connection: close")
        assert [ask(service, last).count(WELL) for _ in range(9)] == [2] * 9
        assert [ask(service, LIVE).startswith(WELL) for _ in range(2)] == [True] * 2  # a connection gives one back


def test_whoever_comes_too_fast_does_not_lock_out_the_key_of_its_address(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limited(monkeypatch, peer_rate=0.001, peer_burst=3)
    with running(run_dir) as service:
        last = with_headers(HEALTH, f"X-Access-Key: {KEY}", "Connection: close")
        for wrong in (HEALTH, with_headers(HEALTH, "X-Access-Key: wrong"), b""):
            for _ in range(5):
                ask(service, wrong + b"\r\n")
            assert ask(service, LIVE) == b""
            assert ask(service, last).startswith(WELL)


def test_connections_that_are_parked_are_few(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest makes room; nothing stays when the endpoint closes."""
    limited(monkeypatch, peer_rate=0.001, peer_burst=1, max_parked=3)
    with running(run_dir) as service:
        assert ask(service, LIVE).startswith(WELL)
        parked = [socket.create_connection(("127.0.0.1", service.port), 20) for _ in range(5)]
        assert [connection.recv(1) for connection in parked[:2]] == [b"", b""]
        last = with_headers(HEALTH, f"X-Access-Key: {KEY}", "Connection: close")
        assert ask(service, last).startswith(WELL)
        service.close()
        assert [connection.recv(1) for connection in parked[2:]] == [b""] * 3
        for connection in parked:
            connection.close()


@pytest.mark.parametrize("limits", [{"max_parked": 2, "grace": 60.0}, {"park_rate": 0.001, "park_burst": 1}])
def test_who_sends_the_key_a_moment_later_is_served_in_a_flood_of_silence(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch, limits: dict[str, float]
) -> None:
    """Nobody is closed for being silent as long as it is young: what does not fit waits in the kernel's queue."""
    limited(monkeypatch, peer_rate=0.001, peer_burst=1, **limits)
    with running(run_dir) as service, contextlib.ExitStack() as stack:
        assert ask(service, LIVE).startswith(WELL)
        address = ("127.0.0.1", service.port)
        silent = [stack.enter_context(socket.create_connection(address, 20)) for _ in range(6)]
        for connection in silent:
            connection.sendall(with_headers(HEALTH, f"X-Access-Key: {KEY}", "Connection: close"))
            assert connection.recv(len(WELL)) == WELL


def test_the_time_in_the_queue_counts_as_silence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()):
        assert not select.select([], [], [], 0.05)[0]  # this is the silence, not a wait for anything
        connection, _ = server.accept()
        with connection:
            assert 0.04 <= rate_limits._silent_for(connection) < 20.0


def test_all_together_wait_for_their_turn(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limited(monkeypatch, rate=50.0, burst=5)
    with running(run_dir) as service:
        began = time.monotonic()
        for _ in range(15):
            assert ask(service, LIVE).startswith(WELL)
        assert time.monotonic() - began >= 10 / 50.0 - 0.02


@pytest.mark.parametrize(
    "request_",
    [
        LIVE,
        LIVE.replace(b"/live", b"/"),
        LIVE.replace(b"localhost", b"evil"),
        LIVE.replace(b"/live", b"/nosuch"),
        HEALTH,
        with_headers(HEALTH, "X-Access-Key: wrong"),
    ],
)
def test_an_answer_without_a_key_is_the_connection_s_last(service: Running, request_: bytes) -> None:
    assert ask(service, request_ * 3).count(b"HTTP/1.1 ") == 1


def test_who_has_a_key_keeps_the_connection(service: Running) -> None:
    request = with_headers(HEALTH, f"X-Access-Key: {KEY}")
    assert ask(service, request * 2 + with_headers(request, "Connection: close")).count(WELL) == 3
