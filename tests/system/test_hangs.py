"""Workers that hang, for real: found, their stacks written, replaced before they are killed; and no false alarm."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.tools import ask
from tests.tools.load import Load
from tests.tools.ports import free_port
from tests.tools.processes import descendants
from tests.tools.service import DEADLINE, Service

if TYPE_CHECKING:
    from collections.abc import Iterator

PROGRAMS = Path(__file__).parent.parent / "programs" / "hanging"

LIMIT = 3
"""Seconds of hang_timeout here."""


class Case(NamedTuple):
    target: tuple[str, ...]
    path: str
    line: str
    """A frame of the stacks."""
    threads: int = 1
    """How many requests it takes to have all of it stand still."""


CASES = {
    "event loop": Case(("asgi:app",), "/loop", "in block_the_loop"),
    "event loop, granian": Case(("--server", "granian", "asgi:app"), "/loop", "in block_the_loop"),
    "GIL": Case(("asgi:app",), "/gil", "in keep_the_gil"),
    "pool of a WSGI app": Case(("wsgi:app",), "/thread", "in block_the_thread", 40),
    "pool of a WSGI app, granian": Case(("--server", "granian", "wsgi:app"), "/thread", "in block_the_thread", 40),
    "pool of FastAPI": Case(("fast:app",), "/thread", "in block_the_thread", 40),
    "pool of waitress": Case(("pool.py",), "/thread", "in block_the_thread", 4),
    "http.server": Case(("script.py",), "/server", "in block_the_server"),
    "http.server, many threads": Case(("many.py",), "/server", "in block_the_server"),
}


POOLS = [kind for kind in CASES if kind.startswith("pool")]
GO_ON = [*POOLS, "event loop, granian"]
"""Those whose servers would go on to take connections."""
LEFT = "paused accepting new connections"


@contextlib.contextmanager
def standing(port: int, path: str, count: int) -> Iterator[None]:
    """*count* requests for *path*, to one and the same worker, that nobody will answer."""
    with contextlib.ExitStack() as held:
        of_worker: dict[bytes, list[socket.socket]] = {}
        while max(map(len, of_worker.values()), default=0) < count:
            client = held.enter_context(socket.create_connection(("127.0.0.1", port), timeout=DEADLINE))
            of_worker.setdefault(pid_of(client) if count > 1 else b"any", []).append(client)
        for client in next(each for each in of_worker.values() if len(each) == count):
            client.sendall(f"GET {path} HTTP/1.1\r\nHost: here\r\n\r\n".encode())
        yield


def pid_of(client: socket.socket) -> bytes:
    """Which worker has taken the connection, by an answer that leaves it open."""
    client.sendall(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n")
    answer = b""
    while not re.search(rb"\r\n\r\n\d+\Z", answer):
        answer += client.recv(4096) or pytest.fail(f"closed after {answer!r}")
    return answer.rpartition(b"\n")[2]


def service(case: Case, port: int, name: str = "test", *, workers: int = 2, limit: int = LIMIT) -> Service:
    where = (str(port),) if case.target[-1].endswith(".py") else ()
    bind = () if where else ("--bind", f"127.0.0.1:{port}")
    *before, target = case.target
    settings = ("-w", str(workers), "--hang-timeout", f"{limit}s", "--ready-after", "60s", *bind)
    return Service(*settings, *before, target, *where, cwd=PROGRAMS, name=name)


@pytest.mark.parametrize("kind", CASES)
def test_one_of_two_that_hangs_is_found_shown_and_replaced(kind: str) -> None:
    case, port = CASES[kind], free_port()
    with service(case, port) as running:
        running.serving(2)
        with standing(port, case.path, case.threads):
            if kind in GO_ON:
                running.until_logged(LEFT)
            with Load(f"http://127.0.0.1:{port}/") as load:
                (hung,) = running.until_event("worker_hung")
                assert "made no progress for 3 s" in hung["detail"]
                assert any(case.line in line for line in hung["stacks"]), hung["stacks"]
                running.until_logged(case.line)
                (start,) = running.until_event("worker_start", reason="hang", slot=hung["slot"])
                running.until_event("worker_ready", pid=start["pid"])
                (end,) = running.until_event("worker_exit", pid=hung["pid"])
                result = load.finish()
        assert end["reason"] == "hang"
        assert (result.failed, result.ok > 0) == (0, True), f"others are answered meanwhile: {result}"
        told = [(event["type"], event.get("pid")) for event in running.events]
        ready, stop = told.index(("worker_ready", start["pid"])), told.index(("worker_stop", hung["pid"]))
        assert told.index(("worker_hung", hung["pid"])) < stop
        assert ready < stop, "its successor serves before it is asked to end"


@pytest.mark.parametrize("kind", POOLS)
def test_one_whose_pool_is_free_again_takes_connections_again(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case, port, gate = CASES[kind], free_port(), tmp_path / "gate"
    os.mkfifo(gate)
    monkeypatch.setenv("GATE", str(gate))
    with service(case, port, workers=1, limit=600) as running:
        (worker,) = running.serving(1)
        with standing(port, "/gate", case.threads):
            running.until_logged(LEFT)
            listening = {row["pid"]: row["listening"] for row in running.json("workers")["workers"]}
            with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE) as late:
                late.sendall(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n")
                assert in_queue(port) == 1
                with gate.open("w"):
                    assert late.recv(4096)
            assert listening == {worker: [f"127.0.0.1:{port}"]}
        assert ask.http(("127.0.0.1", port)).isdigit()


def in_queue(port: int) -> int:
    """How many connections wait to be accepted on *port*."""
    rows = [row.split() for row in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(int(row[4].split(":")[1], 16) for row in rows if row[3] == "0A" and row[1].endswith(f":{port:04X}"))


@pytest.mark.parametrize("whom", ["guardian", "master"])
def test_nobody_is_blamed_while_we_were_stopped(whom: str) -> None:
    """With the master its workers, as if it were the machine. Another service shows how much time passes."""
    port, another = free_port(), free_port()
    case = CASES["event loop"]
    with service(case, port) as running, service(case, another, name="clock") as clock:
        workers = running.serving(2)
        clock.serving(2)
        ours = {"guardian": [running.pid], "master": [running.json("info")["master_pid"], *workers]}
        with stopped(ours[whom]), standing(another, case.path, 1):
            clock.until_event("worker_hung")
        with standing(another, case.path, 1):
            clock.until_event("worker_hung", 2)
        assert running.serving(2) == workers
        assert ask.http(("127.0.0.1", port)) in map(str, workers)
        assert not [event for event in running.events if event["type"] == "worker_hung"]


def test_nobody_is_blamed_who_waits_for_an_output_that_nobody_reads() -> None:
    """As when the terminal is paused; here the log writer is stopped. Another service shows how much time passes."""
    port, another = free_port(), free_port()
    chatty = Case(("chatty:app",), "/talk", "")
    with service(chatty, port) as running, service(CASES["event loop"], another, name="clock") as clock:
        workers = running.serving(2)
        clock.serving(2)
        (writer,) = [pid for pid in descendants(running.pid) if b"log writer" in command_line(pid)]
        with stopped([writer]), standing(port, "/talk", 1), standing(another, "/loop", 1):
            clock.until_event("worker_hung")
            with standing(another, "/loop", 1):
                clock.until_event("worker_hung", 2)
        assert running.serving(2) == workers
        assert int(ask.http(("127.0.0.1", port))) in workers
        assert not [event for event in running.events if event["type"] == "worker_hung"]


def command_line(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


@contextlib.contextmanager
def stopped(pids: list[int]) -> Iterator[None]:
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def test_one_that_is_stopped_for_ever_is_replaced() -> None:
    port = free_port()
    with service(CASES["event loop"], port) as running:
        first, _ = running.serving(2)
        os.kill(first, signal.SIGSTOP)
        hung = running.until_event("worker_hung", pid=first)[0]
        assert hung["stacks"] == []
        (end,) = running.until_event("worker_exit", pid=first)
        assert (end["reason"], end["signal"]) == ("hang", "SIGKILL")
        assert len(running.serving(2)) == 2
        assert first not in descendants(running.pid)
