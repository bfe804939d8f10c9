"""The console on the terminal of a service that runs in the foreground: who has the terminal, and what it shows."""

from __future__ import annotations

import os
import signal
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.tools.doors import audit_file
from tests.tools.processes import descendants
from tests.tools.screen import CTRL_C, CTRL_D, Screen
from tests.tools.service import PYTHON, cservice

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

PROGRAM = """
import signal
import cluster_service as cservice
print("a worker says hello", flush=True)
cservice.worker_ready()
while True:
    signal.pause()
"""


PATIENT = PROGRAM.replace("_ready()", "_ready(on_worker_stop=lambda: open('gate').read())")
"""Its worker ends when somebody has written to the pipe ``gate``."""

SLOW = """
import importlib, sys
sys.path[:] = [place for place in sys.path if place != __path__[0].rpartition("/")[0]]
del sys.modules["prompt_toolkit"]
print("importing", flush=True)
sys.stdin.readline()
importlib.import_module("prompt_toolkit")
"""
"""Stands before the module that it is named like, until a line is typed."""


def started(tmp_path: Path, *options: str, program: str = PROGRAM, env: Mapping[str, str] | None = None) -> Screen:
    """A service of one worker, in the foreground of a terminal."""
    (tmp_path / "worker.py").write_text(program)
    return Screen("start", "-w", "1", *options, "worker.py", cwd=tmp_path, env=env)


def consoles(screen: Screen) -> Iterator[int]:
    """The consoles beside the service."""
    for entry in Path("/proc").iterdir():
        try:
            if (
                entry.name.isdigit()
                and f"--guardian\0{screen.process.pid}\0".encode() in (entry / "cmdline").read_bytes()
            ):
                yield int(entry.name)
        except OSError:  # it has ended
            continue


def test_a_console_stands_below_the_log_and_ctrl_c_twice_ends_the_service(tmp_path: Path) -> None:
    with started(tmp_path) as screen:
        screen.until_shown("[web.1] a worker says hello")
        screen.until_shown("web.1 (pid ")
        screen.give("workers")
        screen.until_shown("serving")
        screen.give("restart all")
        screen.until_shown("a worker says hello", 2)
        screen.until_shown("restart all: done (1 of 1)")
        screen.until_prompt()
        assert not any("audit" in line for line in screen.shown())
        assert screen.foreground() != screen.process.pid
        screen.type("half a line" + CTRL_C)
        screen.until_prompt()
        screen.type(CTRL_C)
        screen.until_shown("Ctrl-C once more")
        screen.until_prompt()
        screen.type(CTRL_C)
        screen.until_shown("shutting down")
        assert screen.until_ended() == 0
        assert screen.echoes()
        assert screen.process.returncode == 0
    told = [(entry["key"], entry["command"], entry["outcome"]) for entry in audit_file()]
    assert told.count(("owner", "restart", "accepted")) == 1  # though the terminal did not show it
    assert ("owner", "workers", "done") in told


@pytest.fixture
def found_first() -> Iterator[str]:
    """The name of a variable: what it names is first on ``sys.path``, also of isolated interpreters."""
    variable = f"FOUND_FIRST_{os.getpid()}"
    file = Path(sysconfig.get_path("purelib"), f"found_first_{os.getpid()}.pth")
    file.write_text(f"import os, sys; sys.path[:0] = filter(None, [os.environ.get({variable!r})])\n")
    yield variable
    file.unlink()


def test_ctrl_c_while_the_console_is_imported_is_as_good_as_one_at_the_prompt(tmp_path: Path, found_first: str) -> None:
    slow = tmp_path / "slow" / "prompt_toolkit"
    slow.mkdir(parents=True)
    (slow / "__init__.py").write_text(SLOW)
    with started(tmp_path, env={found_first: str(slow.parent)}) as screen:
        screen.until_shown("importing")
        screen.type(CTRL_C + "on\n")
        screen.until_shown("Ctrl-C once more")
        screen.until_prompt()
        screen.type(CTRL_C)
        assert screen.until_ended() == 0
        assert screen.echoes()


def test_who_leaves_the_console_has_the_log_and_ctrl_c_for_the_service(tmp_path: Path) -> None:
    with started(tmp_path) as screen:
        screen.until_shown("web.1 (pid ")
        screen.until_prompt()
        screen.type(CTRL_D)
        screen.until_shown("The console is left; the service goes on")
        assert screen.foreground() == screen.process.pid
        assert screen.echoes()
        assert cservice("restart", "all").code == 0
        screen.until_shown("a worker says hello", 2)
        screen.type(CTRL_C)
        assert screen.until_ended() == 0


def test_shutdown_in_the_console_of_its_own_service(tmp_path: Path) -> None:
    with started(tmp_path) as screen:
        screen.until_shown("web.1 (pid ")
        screen.give("shutdown all")
        assert screen.until_ended() == 0
        assert screen.echoes()
        assert not descendants(screen.process.pid)


def test_the_service_is_shut_down_from_elsewhere_while_a_line_is_typed(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "gate")
    with started(tmp_path, program=PATIENT) as screen:
        screen.until_shown("web.1 (pid ")
        screen.until_prompt()
        screen.type("half a line")
        screen.until_prompt("half a line")
        screen.process.send_signal(signal.SIGTERM)
        screen.until_shown("shutting down")
        (tmp_path / "gate").write_text("now")
        assert screen.until_ended() == 0
        assert screen.echoes()


def test_the_death_of_the_console_costs_the_service_nothing_but_its_output(tmp_path: Path) -> None:
    with started(tmp_path) as screen:
        screen.until_shown("web.1 (pid ")
        screen.until_prompt()
        (console,) = consoles(screen)
        pidfd = os.pidfd_open(console)
        os.kill(console, signal.SIGKILL)
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOWAIT)
        os.close(pidfd)
        assert cservice("restart", "all").code == 0
        assert cservice("health").out.startswith("ok: 1 of 1 serving")
        screen.process.send_signal(signal.SIGTERM)
        assert screen.until_ended() == 0


def test_with_a_log_file_the_console_tells_events(tmp_path: Path) -> None:
    with started(tmp_path, "--log-file", str(tmp_path / "service.log")) as screen:
        screen.until_prompt()
        screen.until_shown("F2 switches the events off")
        screen.until_shown("worker_start")
        pid = int(cservice("workers").out.splitlines()[1].split()[2])
        os.kill(pid, signal.SIGKILL)
        screen.until_shown("worker_exit")
        screen.until_prompt()
        screen.type(CTRL_C)
        screen.until_shown("once more")
        screen.type(CTRL_C)
        assert screen.until_ended() == 0


def test_without_a_console_ctrl_c_is_the_service_s(tmp_path: Path) -> None:
    with started(tmp_path, "--no-console") as screen:
        screen.until_shown("web.1 (pid ")
        assert screen.foreground() == screen.process.pid
        assert not list(consoles(screen))
        screen.type(CTRL_C)
        assert screen.until_ended() == 0


def test_a_console_that_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "worker.py").write_text(PROGRAM)
    done = cservice("start", "--console", "worker.py", cwd=tmp_path)
    assert done.code == 2
    assert "--console: standard input and output are no terminal" in done.err


def test_a_program_of_the_user_s_has_a_console_when_it_asks_for_one(tmp_path: Path) -> None:
    (tmp_path / "worker.py").write_text(PROGRAM)
    (tmp_path / "server.py").write_text(
        "import cluster_service as cservice\n"
        "@cservice.command\n"
        "def greet(name: str = 'you'):\n    '''Greet somebody.'''\n    return 'hello ' + name\n"
        "cservice.start('worker.py', workers=1, console=True)\n"
    )
    with Screen("server.py", command=(PYTHON,), cwd=tmp_path) as screen:
        screen.until_shown("web.1 (pid ")
        screen.give("greet Ann")
        screen.until_shown("hello Ann")
        screen.until_prompt()
        screen.type("gre\t")
        screen.until_shown("greet [NAME]: Greet somebody.")
        screen.type(CTRL_C)
        screen.give("shutdown all")
        assert screen.until_ended() == 0
