"""What the process list says of a worker, and that a program's own word counts more."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.worker.harness import WAIT, Worker, interpreters

if TYPE_CHECKING:
    from collections.abc import Callable

PYTHONS = pytest.mark.parametrize("python", interpreters())
TITLE = {"CSERVICE_TITLE": "cservice: default web.1"}
GREETS = WAIT + "import cluster_service; cluster_service.worker_ready()\n"


@pytest.fixture
def script(tmp_path: Path) -> Callable[[str], str]:
    def write(source: str) -> str:
        path = tmp_path / "worker.py"
        path.write_text(textwrap.dedent(source))
        return str(path)

    return write


def arguments(pid: int) -> list[str]:
    """As ps(1) takes them from the kernel."""
    return Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")[:-1]


def tell(worker: Worker, state: str) -> None:
    """Tell *worker* its state, and return when it has been heard."""
    worker.channel.send(json.dumps({"type": "state", "state": state}).encode())
    worker.channel.send(json.dumps({"type": "message", "id": "1.1", "message": "?"}).encode())
    answer = worker.message()
    assert answer is not None
    assert (answer["type"], answer["id"]) == ("got", "1.1")


@PYTHONS
def test_the_title_follows_the_worker_s_life(python: str, script: Callable[[str], str]) -> None:
    source = "import signal\nsignal.signal(signal.SIGTERM, lambda *_: None)\n" + GREETS + "wait()\n"
    source += "print(open('/proc/self/cmdline').read())\n"
    with Worker("script", script(source), "--an-argument", python=python, env=TITLE) as worker:
        worker.ready()
        assert arguments(worker.pid) == ["cservice: default web.1 starting"]
        tell(worker, "serving")
        assert arguments(worker.pid) == ["cservice: default web.1 serving"]
        worker.channel.send(json.dumps({"type": "stop", "timeout": 20.0, "reason": "restart"}).encode())
        worker.channel.send(json.dumps({"type": "message", "id": "1.1", "message": "?"}).encode())
        worker.message()
        worker.process.terminate()
        worker.line("cservice: default web.1 draining")
        worker.wait()


def test_a_worker_that_is_ended_before_it_serves_is_stopping(script: Callable[[str], str]) -> None:
    source = "import atexit\natexit.register(lambda: print(open('/proc/self/cmdline').read()))\n" + GREETS + "wait()\n"
    with Worker("script", script(source), env=TITLE) as worker:
        worker.ready()
        worker.process.terminate()
        worker.line("cservice: default web.1 stopping")
        worker.wait()


def test_no_title_where_none_is_wanted(script: Callable[[str], str]) -> None:
    with Worker("script", path := script(GREETS + "wait()")) as worker:
        worker.ready()
        tell(worker, "serving")
        assert arguments(worker.pid)[-2:] == ["script", path]


def test_a_long_title_is_cut_where_the_arguments_end(script: Callable[[str], str]) -> None:
    long = "cservice: " + "x" * 5000
    with Worker("script", script(GREETS + "wait()"), env={"CSERVICE_TITLE": long, "MARK": "stays"}) as worker:
        worker.ready()
        (shown,) = arguments(worker.pid)
        assert long.startswith(shown)
        assert len(shown) > 40
        assert b"\0MARK=stays\0" in b"\0" + Path(f"/proc/{worker.pid}/environ").read_bytes()


def test_the_program_sees_its_own_arguments_and_nothing_of_the_title(script: Callable[[str], str]) -> None:
    source = "import os, sys\nprint(sys.argv[1:], [n for n in os.environ if 'TITLE' in n], sys.orig_argv[-1])\n"
    with Worker("script", script(source), "a", "b", env=TITLE) as worker:
        worker.line("['a', 'b'] [] b")
        worker.wait()


def test_a_fork_keeps_what_it_was_born_with(script: Callable[[str], str]) -> None:
    source = GREETS + (
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    wait()\n"
        "    os._exit(0)\n"
        "print('child', pid, flush=True)\n"
        "wait()\n"
    )
    with Worker("script", script(source), env=TITLE) as worker:
        worker.ready()
        child = int(worker.line("child").split()[1])
        tell(worker, "serving")
        assert arguments(worker.pid) == ["cservice: default web.1 serving"]
        assert arguments(child) == ["cservice: default web.1 starting"]


SETS = "import setproctitle\nsetproctitle.setproctitle('my own title')\n"
LATE = f"""
import cluster_service
@cluster_service.on_message
def set_it(message):
    exec({SETS!r})
    print("set", flush=True)
"""


@pytest.mark.parametrize("source", [SETS + GREETS, LATE + GREETS], ids=["before", "after"])
def test_the_title_that_the_program_sets_counts(script: Callable[[str], str], source: str) -> None:
    pytest.importorskip("setproctitle")
    with Worker("script", script(source + "wait()"), env=TITLE) as worker:
        worker.ready()
        if source.startswith(LATE):
            assert arguments(worker.pid) == ["cservice: default web.1 starting"]
            worker.channel.send(json.dumps({"type": "message", "id": "1.0", "message": "now"}).encode())
            worker.message()
            worker.line("set")
        assert arguments(worker.pid)[0] == "my own title"
        tell(worker, "serving")
        assert arguments(worker.pid)[0] == "my own title"


def test_a_title_that_somebody_else_has_written_stays(script: Callable[[str], str]) -> None:
    """Whatever wrote it: here it is a copy of ours, which no import gives away."""
    source = GREETS + (
        "import cluster_service.machine.process_title as t\n"
        "t.Title().set('written by hand')\n"
        "print('set', flush=True)\n"
        "wait()\n"
    )
    with Worker("script", script(source), env=TITLE) as worker:
        worker.ready()
        worker.line("set")
        tell(worker, "serving")
        assert arguments(worker.pid) == ["written by hand"]


