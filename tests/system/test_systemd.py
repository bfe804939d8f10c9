"""The printed units, under a real systemd (of the test's own; skipped where there can be none)."""

from __future__ import annotations

import json
import os
import shutil
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Self

import pytest

from tests.tools.ask import http, http_pid
from tests.tools.ports import free_port
from tests.tools.service import CSERVICE, DEADLINE, cservice
from tests.tools.systemd import Systemd

if TYPE_CHECKING:
    from collections.abc import Iterator

PROGRAMS = Path(__file__).parent.parent / "programs"
STATE = "/var/lib/cservice-test"
SLOW = """
import asyncio, asgi_pid
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            kind = (await receive())["type"]
            await asyncio.sleep(4)
            await send({"type": kind + ".complete"})
            if kind == "lifespan.shutdown":
                return
    await asgi_pid.app(scope, receive, send)
"""


class Unit:
    """The service ``web`` of an app, as ``cservice systemd`` prints it; *more* is added to its ``[Service]``."""

    def __init__(self, systemd: Systemd) -> None:
        self.systemd = systemd
        self.port = free_port()
        self.code = systemd.directory / "code"
        self.code.mkdir()
        shutil.copy(PROGRAMS / "asgi_pid.py", self.code)
        (self.code / "slow.py").write_text(SLOW, encoding="utf-8")
        self.up = systemd.directory / "up"
        os.mkfifo(self.up, 0o666)
        self.up.chmod(0o666)

    def write(self, *options: str, app: str = "asgi_pid:app", more: str = "") -> None:
        start = ["--name", "web", "-w", "2", "--bind", f"127.0.0.1:{self.port}", "--state", f"{STATE}/web"]
        done = cservice("--json", "systemd", *options, "--user", "daemon", "--", *start, app, cwd=self.code)
        assert done.code == 0, done
        printed = json.loads(done.out)
        for kind in ("service", "socket"):
            text = printed["unit" if kind == "service" else kind]
            if text:
                self.systemd.write(f"web.{kind}", text)
        log = self.systemd.directory / "service.log"
        told = f"ExecStartPost=/bin/sh -c 'echo up > {self.up}'"
        self.systemd.write("web.service.d/test.conf", f"[Service]\nStandardOutput=append:{log}\n{told}\n{more}")
        self.systemd("daemon-reload")

    def is_up(self) -> None:
        """Wait until it has started, once more: whoever writes to the FIFO waits for us, and we for it."""
        with self.up.open(encoding="ascii") as fifo:
            assert fifo.read() == "up\n"

    def cli(self, *words: str) -> str:
        at = ["--name", "web", "--run-dir", "/run/cluster-service/web"]
        done = self.systemd.run("setpriv", "--reuid=daemon", "--clear-groups", CSERVICE, *at, *words)
        assert done.returncode == 0, done
        return done.stdout


@pytest.fixture
def unit() -> Iterator[Unit]:
    with Systemd() as systemd:
        yield Unit(systemd)


def started(unit: Unit) -> None:
    unit.systemd("start", "--no-block", "web.service")
    unit.is_up()


def test_it_is_active_when_it_serves_and_says_how_it_is(unit: Unit) -> None:
    unit.write()
    started(unit)
    assert http_pid(("127.0.0.1", unit.port)) > 0
    assert unit.systemd.show("web", "StatusText", "Type", "WatchdogUSec") == ["2 of 2 serving", "notify", "30s"]
    assert '"share": "seccomp"' in unit.cli("--json", "info")
    unit.systemd("reload", "web")
    unit.cli("operations", "2")  # until the reload has ended
    assert unit.systemd.show("web", "ActiveState")[0] in ("active", "reloading")
    unit.systemd("stop", "web")
    assert unit.systemd.show("web", "ActiveState", "Result", "ExecMainStatus") == ["inactive", "success", "0"]


def test_slow_starts_and_stops_are_given_the_time_that_they_announce(unit: Unit) -> None:
    """The timeouts of the unit are shorter than either takes."""
    unit.write(app="slow:app", more="TimeoutStartSec=2\nTimeoutStopSec=2\n")
    started(unit)
    assert http(("127.0.0.1", unit.port))
    unit.systemd("stop", "web")
    assert unit.systemd.show("web", "ActiveState", "Result", "NRestarts") == ["inactive", "success", "0"]


def test_a_guardian_that_hangs_is_found_by_the_watchdog(unit: Unit) -> None:
    unit.write(more="WatchdogSec=2\nTimeoutAbortSec=1\nLimitCORE=0\n")
    started(unit)
    (first,) = unit.systemd.show("web", "MainPID")
    unit.systemd.run("kill", "-STOP", first)
    unit.is_up()
    (second,) = unit.systemd.show("web", "MainPID")
    assert second != first
    assert unit.systemd.show("web", "NRestarts") == ["1"]
    assert http(("127.0.0.1", unit.port))


def test_its_sockets_outlive_it(unit: Unit) -> None:
    """Whoever connects while nothing runs starts it, and is answered; and so again after it was stopped."""
    unit.write("--socket")
    unit.systemd("start", "web.socket")
    for _ in range(2):
        with Asking(unit.port) as asking:
            unit.is_up()
            assert asking.answer().startswith(b"HTTP/1.1 200")
        assert unit.systemd.show("web", "StatusText") == ["2 of 2 serving"]
        unit.systemd("stop", "web.service")
        assert unit.systemd.show("web.socket", "ActiveState") == ["active"]


class Asking:
    """A request that waits for its answer."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), DEADLINE)
        self.socket.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def answer(self) -> bytes:
        return self.socket.recv(65536)


def test_the_printed_units_are_what_systemd_reads_without_a_word(unit: Unit) -> None:
    unit.write("--socket")
    paths = [str(unit.systemd.units / f"web.{kind}") for kind in ("service", "socket")]
    done = unit.systemd.run("systemd-analyze", "verify", "--man=no", *paths)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
