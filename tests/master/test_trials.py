"""Scripts that are run against a release, and health checks: how they end, and that nothing of them is left."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import subprocess
import sys
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from cluster_service.core.model.spec import Release
from cluster_service.machine import identity
from cluster_service.machine.identity import OWN
from cluster_service.master import release_tests
from tests.tools.processes import descendants
from tests.worker.harness import interpreters

if TYPE_CHECKING:
    from collections.abc import Iterator

DEADLINE = 30.0
"""Seconds that only a failure uses up."""

ESCAPES = """\
import os, signal, sys
began, begins = os.pipe()
for name in ("child", "session", "daemon"):
    pid = os.fork()
    if pid == 0:
        if name != "child":
            os.setsid()
        if name == "daemon" and os.fork():
            os._exit(0)
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        os.write(begins, b"x")
        signal.pause()
        os._exit(0)
    os.read(began, 1)
    if name == "daemon":
        os.waitpid(pid, 0)  # the one between them is gone
    os.write(1, b"here\\n")
"""
"""A script that starts processes that get out of its group and session and say so; it goes on without them."""


def ours(place: Path) -> Release:
    return Release("script", str(place / "worker.py"), cwd=str(place), python=sys.executable)


def a_script(place: Path, text: str, name: str = "smoke.py") -> str:
    path = place / name
    path.write_text(text)
    if not name.endswith(".py"):
        path.chmod(0o755)
    return str(path)


def run(script: str, release: Release, *, within: float | None = DEADLINE, **more: Any) -> tuple[str, list[str]]:
    """Run *script*; return why it failed, and its lines."""
    lines: list[str] = []
    env = {**os.environ, **more.pop("env", {})}
    told = asyncio.run(
        release_tests.run_script(
            script,
            release=release,
            env=env,
            within=within,
            on_line=lines.append,
            identity=more.pop("identity", OWN),
            **more,
        )
    )
    return told, lines


def test_a_python_file_is_run_by_the_release_s_interpreter_in_its_directory(tmp_path: Path) -> None:
    home = tmp_path / "release"
    home.mkdir()
    (home / "shop.py").write_text("name = 'the release'\n")
    script = a_script(
        tmp_path, "import os, sys, shop\nprint(shop.name, os.getcwd(), os.environ['CSERVICE_TEST_URL'])\n"
    )
    for release in (ours(home), Release("app", "shop:app", cwd=str(home), python=sys.executable)):
        told, lines = run(script, release, env={"CSERVICE_TEST_URL": "http://127.0.0.1:1"})
        assert (told, lines) == ("", [f"the release {home} http://127.0.0.1:1"])


@pytest.mark.parametrize("python", interpreters(), ids=os.path.basename)
def test_every_interpreter(tmp_path: Path, python: str) -> None:
    script = a_script(tmp_path, "import sys\nprint(sys.executable)\n")
    assert run(script, Release("script", script, cwd=str(tmp_path), python=python)) == ("", [python])
    assert run(script, Release("command", "/bin/sh", cwd=str(tmp_path))) == ("", [sys.executable])


def test_any_executable_is_run_as_it_is(tmp_path: Path) -> None:
    script = a_script(tmp_path, "#!/bin/sh\necho $0 $#; echo oops >&2; cat; exit 0\n", "smoke")
    assert run(script, ours(tmp_path)) == ("", [f"{script} 0", "oops"])
    assert run("smoke", ours(tmp_path)) == ("", [f"{script} 0", "oops"])
    (tmp_path / "smoke").write_text("#!/usr/bin/env python3\nprint('as Python')\n")
    (tmp_path / "smoke").chmod(0o644)
    assert run(script, ours(tmp_path)) == ("", ["as Python"])


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("smoke.py", "raise SystemExit(3)", "failed with exit code 3"),
        ("smoke.py", "print('checking'); print(); assert 1 == 2, 'one is not two'", "AssertionError: one is not two"),
        ("smoke", "#!/bin/sh\nkill -SEGV $$", "was killed by SIGSEGV"),
        ("smoke", "#!/bin/sh\nkill -KILL $$", "was killed by SIGKILL"),
        ("smoke", "#!/bin/sh\nkill -TERM $$", "was killed by SIGTERM"),
        ("smoke", "#!/nowhere/sh\n", "smoke cannot be run: the interpreter that its first line names does not exist"),
        ("smoke", "neither fish nor fowl\n", "smoke cannot be run: it is no program for this machine"),
    ],
)
def test_how_it_fails(tmp_path: Path, name: str, text: str, words: str) -> None:
    told, _ = run(a_script(tmp_path, text, name), ours(tmp_path))
    assert told.startswith(f"the test {tmp_path}/{name} ")
    assert words in told


def test_what_cannot_be_run(tmp_path: Path) -> None:
    release = ours(tmp_path)
    assert run("/nowhere/smoke.py", release)[0] == "the test /nowhere/smoke.py does not exist"
    assert run(str(tmp_path), release)[0] == f"the test {tmp_path} is a directory"
    (tmp_path / "data").write_text("data")
    assert "neither Python nor executable: chmod +x" in run("data", release)[0]
    script = a_script(tmp_path, "")
    gone = Release("script", script, cwd="/nowhere", python=sys.executable)
    assert "there is no directory /nowhere" in run(script, gone)[0]
    no_python = Release("script", script, cwd=str(tmp_path), python="/nowhere/python")
    assert "/nowhere/python cannot be run" in run(script, no_python)[0]


def test_output_comes_line_by_line(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    script = a_script(tmp_path, f"print('ask')\nopen({str(fifo)!r}).read()\nprint('answered', end='')\n")
    lines: list[str] = []

    def on_line(line: str) -> None:
        lines.append(line)
        if line == "ask":  # it waits for us, so this line came before the next was written
            fifo.write_text("")

    coroutine = release_tests.run_script(
        script, release=ours(tmp_path), env=os.environ, within=DEADLINE, on_line=on_line, identity=OWN
    )
    assert asyncio.run(coroutine) == ""
    assert lines == ["ask", "answered"]


def test_output_is_bounded(tmp_path: Path) -> None:
    script = a_script(
        tmp_path,
        "import sys\nout = sys.stdout.buffer\n"
        "out.write(b'x' * 5000 + b'\\n' + b'\\xff\\xfe\\r\\n' + '…'.encode() * 1000 + b'\\n')\n"
        "for _ in range(40000): out.write(b'y' * 99 + b'\\n')\nout.write(b'the end\\n')\nsys.exit(1)\n",
    )
    told, lines = run(script, ours(tmp_path))
    assert lines[:3] == ["x" * 1000 + " …", "��", "…" * 1000]
    assert lines[-1] == "(more than 1 MiB of output: no more is shown)"
    assert sum(map(len, lines)) < (1 << 20) + 2000
    assert told.endswith("failed with exit code 1: the end")


def test_over_time_it_is_killed_with_everything_that_it_started(tmp_path: Path) -> None:
    script = a_script(tmp_path, ESCAPES + "signal.pause()\n")
    told, _ = run(script, ours(tmp_path), within=0.5)
    assert told == f"the test {script} took longer than 0.5 s and was killed"
    assert descendants(os.getpid()) == []


@pytest.mark.parametrize("code", [0, 1])
def test_what_it_leaves_behind_is_killed(tmp_path: Path, code: int) -> None:
    told, lines = run(a_script(tmp_path, f"{ESCAPES}\nsys.exit({code})\n"), ours(tmp_path), within=None)
    assert bool(told) == bool(code)
    assert set(lines) <= {"here"}
    assert descendants(os.getpid()) == []


def test_it_may_close_its_output_and_go_on(tmp_path: Path) -> None:
    script = a_script(tmp_path, "import os\nprint('bye')\nfor fd in (1, 2): os.close(fd)\nos._exit(4)\n")
    assert run(script, ours(tmp_path)) == (f"the test {script} failed with exit code 4: bye", ["bye"])


def test_one_that_is_not_wanted_any_more_is_killed(tmp_path: Path) -> None:
    async def cancel() -> None:
        here = asyncio.Event()
        lines: list[str] = []

        def on_line(line: str) -> None:
            lines.append(line)
            if len(lines) == 3:
                here.set()

        script = a_script(tmp_path, ESCAPES + "signal.pause()\n")
        task = asyncio.create_task(
            release_tests.run_script(
                script, release=ours(tmp_path), env=os.environ, within=None, on_line=on_line, identity=OWN
            )
        )
        async with asyncio.timeout(DEADLINE):
            await here.wait()
        assert len(descendants(os.getpid())) == 5
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        assert task.cancelled()
        assert descendants(os.getpid()) == []

    asyncio.run(cancel())


def test_one_that_is_cancelled_before_it_has_begun(tmp_path: Path) -> None:
    async def cancel(turns: int) -> None:
        script = a_script(tmp_path, "import signal\nsignal.pause()\n")
        task = asyncio.create_task(
            release_tests.run_script(
                script, release=ours(tmp_path), env=os.environ, within=None, on_line=print, identity=OWN
            )
        )
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    for turns in range(8):
        asyncio.run(cancel(turns))
    assert descendants(os.getpid()) == []


MASTER = """\
import asyncio, os, sys
from cluster_service.core.model.spec import Release
from cluster_service.machine.identity import OWN
from cluster_service.master import release_tests
release = Release("script", sys.argv[1], cwd="/", python=sys.executable)
say = lambda line: print(line, flush=True)
run = release_tests.run_script
asyncio.run(run(sys.argv[1], release=release, env=os.environ, within=None, on_line=say, identity=OWN))
"""


@contextmanager
def a_master(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """A process that runs a script that leaves its group; and all its descendants, by pid."""
    script = a_script(tmp_path, ESCAPES + "signal.pause()\n")
    with subprocess.Popen([sys.executable, "-c", MASTER, script], stdout=subprocess.PIPE, text=True) as master:
        assert master.stdout is not None
        try:
            assert [master.stdout.readline() for _ in range(3)] == ["here\n"] * 3
            yield master, descendants(master.pid)
        finally:
            master.kill()


def ended(pids: list[int]) -> bool:
    """Whether all of *pids* end in time."""
    for pid in pids:
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            if not select.select([pidfd], [], [], DEADLINE)[0]:
                return False
        finally:
            os.close(pidfd)
    return True


def test_a_master_that_is_killed_takes_its_tests_with_it(tmp_path: Path) -> None:
    with a_master(tmp_path) as (master, pids):
        assert len(pids) == 5  # the keeper, the script, and three that got away from it
        master.send_signal(signal.SIGKILL)
        assert ended(pids)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_the_keeper_of_a_test_ends_it_when_it_is_told_to(tmp_path: Path, number: int) -> None:
    with a_master(tmp_path) as (master, pids):
        keeper = min(pids)
        os.kill(keeper, number)
        assert ended(pids)
        assert master.wait(DEADLINE) == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_it_runs_as_the_workers_user() -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        place = Path(name)
        place.chmod(0o755)
        script = a_script(place, "#!/bin/sh\nid -u; id -g; id -G\n", "smoke")
        assert run(script, ours(place), identity=identity.of("65534", "65534")) == ("", ["65534"] * 3)


# health checks


def test_what_a_program_writes_is_shown_without_control_characters(tmp_path: Path) -> None:
    shown = "import sys\nsys.stdout.buffer.write(b'a\\x1b[2J\\tb\\x00\\xed\\xa0\\x80\\nlast\\x07\\n')\nsys.exit(1)\n"
    why, lines = run(a_script(tmp_path, shown), ours(tmp_path))
    assert lines[0].startswith("a\\x1b[2J\tb\\x00")
    assert all(line.replace("\t", "").isprintable() for line in [*lines, why])
    assert why.endswith("failed with exit code 1: last\\x07")


async def answered(answer: bytes | None, path: str, address: str, within: float = DEADLINE) -> tuple[str, bytes]:
    """Ask a server that gives *answer* (None: none at all) to whoever asks; return the sentence and the question."""
    asked = asyncio.get_running_loop().create_future()
    over = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set_result(await reader.readuntil(b"\r\n\r\n"))
        writer.write(answer or b"")
        if answer is None:
            with suppress(ConnectionError):
                await reader.read()
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
        over.set()

    if address.startswith("unix:"):
        where = address.removeprefix("unix:")
        server = await asyncio.start_unix_server(serve, "\0" + where[1:] if where.startswith("@") else where)
    else:
        host = address.rpartition(":")[0].strip("[]")
        server = await asyncio.start_server(serve, host, 0)
        port = server.sockets[0].getsockname()[1]
        address = address.replace("PORT", str(port))
    async with server:
        told = await release_tests.http_check(address, path, within)
        question = await asked
        async with asyncio.timeout(DEADLINE):
            await over.wait()
    if address.startswith("unix:/"):
        os.unlink(address.removeprefix("unix:"))
    return told.replace(address, "ADDRESS"), question


def checked(
    answer: bytes | None, path: str = "/health", address: str = "127.0.0.1:PORT", within: float = DEADLINE
) -> str:
    return asyncio.run(answered(answer, path, address, within))[0]


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", ""),
        (b"HTTP/1.0 204 No Content\r\n\r\n", ""),
        (b"HTTP/1.1 302 Found\r\nLocation: /login\r\n\r\n", ""),
        (b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", ""),
        (
            b"HTTP/1.1 500 Oh\r\nContent-Length: 12\r\n\r\nno database\n",
            "the health check GET /health at ADDRESS was answered 500 Internal Server Error: no database",
        ),
        (b"HTTP/1.1 404 Not Found\r\n\r\n", "the health check GET /health at ADDRESS was answered 404 Not Found"),
        (
            b"HTTP/1.1 503 X\r\n\r\n\x00\x01",
            "the health check GET /health at ADDRESS was answered 503 Service Unavailable",
        ),
        (b"HTTP/1.1 599 X\r\n\r\n", "the health check GET /health at ADDRESS was answered 599"),
        (b"SSH-2.0\r\n\r\n", "the health check GET /health at ADDRESS failed: the answer is not HTTP"),
        (b"\x15\x03\x01", "the health check GET /health at ADDRESS failed: the answer is not HTTP"),
        (b"x" * 100_000, "the health check GET /health at ADDRESS failed: the answer is not HTTP"),
        (
            b"HTTP/1.1 100 Go on\r\n\r\n" * 9,
            "the health check GET /health at ADDRESS failed: the answer does not begin",
        ),
        (b"HTTP/1.1 307 See\r\nLocation: http://127.0.0.1:9/\r\n\r\n", ""),
        (
            b"HTTP/1.1 503 No\r\n\r\n\x1b[2Jevil",
            "the health check GET /health at ADDRESS was answered 503 Service Unavailable",
        ),
        (b"", "the health check GET /health at ADDRESS failed: the connection was closed without an answer"),
    ],
)
def test_answers(answer: bytes, told: str) -> None:
    assert checked(answer) == told


def test_no_answer() -> None:
    assert checked(None, within=0.2) == "the health check GET /health at ADDRESS was not answered in 0.2 s"


@pytest.mark.parametrize(
    "address", ["127.0.0.1:PORT", "0.0.0.0:PORT", "[::1]:PORT", "[::]:PORT", "unix:@a-test", "unix:{}"]
)
def test_where_it_asks(address: str, run_dir: Path) -> None:
    told, question = asyncio.run(
        answered(b"HTTP/1.1 200 OK\r\n\r\n", "/health?deep=1", address.format(run_dir / "app.sock"))
    )
    assert told == ""
    assert question.startswith(b"GET /health?deep=1 HTTP/1.1\r\nHost: ")
    assert b"Connection: close\r\n" in question


def test_nobody_there(run_dir: Path) -> None:
    for address, why in (
        (f"unix:{run_dir}/none", "No such file or directory"),
        ("udp:127.0.0.1:53", "UDP"),
        ("nonsense", "not an address"),
    ):
        assert why in asyncio.run(release_tests.http_check(address, "/", DEADLINE))
    assert "listens nowhere" in asyncio.run(release_tests.http_check("", "/"))
