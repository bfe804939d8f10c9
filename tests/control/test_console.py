"""The console on a terminal: line editing, completion, help, history, and what happens meanwhile."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.tools.screen import CTRL_C, CTRL_D, F2, TAB, UP, Screen
from tests.tools.service import CSERVICE

if TYPE_CHECKING:
    from pathlib import Path

    from tests.control.machine import Running


def test_completion_and_help_while_typing(service: Running) -> None:
    with Screen() as screen:
        screen.until_prompt()
        screen.until_shown("Tab completes")
        screen.type("heal" + TAB)
        screen.until_prompt("health")
        screen.until_shown("health: ")
        screen.type(CTRL_C)
        screen.until_prompt()
        screen.type("restart 10" + TAB)
        screen.until_shown("101")
        screen.until_shown("web.1 serving")
        screen.until_shown("all|GROUP|SLOT|PID: which workers")
        screen.type("\x1b" + CTRL_C)
        screen.until_prompt()
        screen.type("restart we" + TAB)
        screen.until_shown("2 workers")
        screen.type("\t\r\r")
        screen.until_shown("restart web: done (2 of 2)")
        screen.until_prompt()
        screen.type(CTRL_D)
        assert screen.until_ended() == 0
        assert screen.echoes()


def test_a_completion_starts_where_the_word_does(service: Running, tmp_path: Path) -> None:
    (tmp_path / "smoke test.py").write_text("")
    (tmp_path / "release").mkdir()
    with Screen(cwd=tmp_path) as screen:
        screen.until_prompt()
        screen.type("upgrade all v2.py rel" + TAB)
        screen.until_prompt("upgrade all v2.py release")
        screen.type(CTRL_C)
        screen.until_prompt()
        screen.type("upgrade all v2.py --ser" + TAB)
        screen.until_prompt("upgrade all v2.py --server")


def test_events_stand_above_the_line_that_is_being_typed(service: Running) -> None:
    with Screen() as screen:
        screen.until_prompt()
        assert service.machine.following.wait(20)
        screen.type("worke")
        screen.until_prompt("worke")
        service.machine.call(lambda: service.machine.publish("worker_start", group="web", pid=7))
        screen.until_shown("worker_start  group=web  pid=7")
        screen.until_prompt("worke")
        screen.type("rs\r")
        screen.until_shown("LISTENING")
        screen.until_prompt()
        above = screen.shown()
        assert above.index("default> workers") > next(i for i, line in enumerate(above) if "worker_start" in line)


def test_the_event_of_one_s_own_command_is_not_told(service: Running) -> None:
    with Screen() as screen:
        screen.until_prompt()
        assert service.machine.following.wait(20)
        screen.give("health")
        screen.until_shown("2 of 2 serving")
        screen.until_prompt()
        for peer in ("mine", "another's"):
            service.machine.call(lambda: service.machine.publish("command", name="health", peer=peer))  # noqa: B023 - called immediately
        screen.until_shown("another's")
        assert not any("mine" in line for line in screen.shown())


def test_events_can_be_switched_off_and_on(service: Running) -> None:
    with Screen() as screen:
        screen.until_prompt()
        assert service.machine.following.wait(20)
        for word in ("on", "off", "on"):
            screen.type(F2)
            screen.until_shown(f"F2 switches the events {word}")
        service.machine.call(lambda: service.machine.publish("worker_start", group="web", pid=8))
        service.machine.call(service.machine.ended.set)
        screen.until_shown("has ended")  # which it learns from the same stream
        assert screen.until_ended() == 0
        assert not any("pid=8" in line for line in screen.shown())


def test_many_events_are_all_shown_and_the_prompt_stays(service: Running) -> None:
    def burst() -> None:
        for number in range(500):
            service.machine.publish("port_open", number=number)

    with Screen() as screen:
        screen.until_prompt()
        assert service.machine.following.wait(20)
        screen.type("he")
        service.machine.call(burst)
        screen.until_shown("number=499")
        screen.until_prompt("he")
        shown = [line.split("number=")[1] for line in screen.shown() if "number=" in line]
        assert shown == [str(number) for number in range(500)]


def test_ctrl_c_leaves_an_operation_and_not_the_console(held: Running) -> None:
    with Screen() as screen:
        screen.give("restart all")
        screen.until_shown("2 of 2")  # the fake takes its steps at once, and never says that it is done
        assert held.machine.following.wait(20)
        screen.type(CTRL_C)
        screen.until_shown("goes on as operation 1. Rejoin it")
        held.machine.call(held.machine.finish, held.machine.done[0], "done", None)
        screen.give("operations 1")
        screen.until_shown("restart all: done")
        screen.give("quit")
        assert screen.until_ended() == 130


def test_trouble_is_told_while_a_command_runs_and_what_it_causes_is_not(held: Running) -> None:
    with Screen() as screen:
        screen.until_prompt()
        assert held.machine.following.wait(20)
        screen.give("restart all")
        screen.until_shown("2 of 2")  # the fake takes its steps at once, and never says that it is done
        held.machine.call(held.machine.publish, "worker_ready")
        held.machine.call(held.machine.publish, "slot_broken")
        screen.until_shown("slot_broken")
        held.machine.call(held.machine.finish, held.machine.done[0], "done", None)
        screen.until_shown("restart all: done")
        screen.until_prompt()
        assert not any("worker_ready" in line for line in screen.shown())


def test_the_end_of_the_service_ends_the_console(service: Running) -> None:
    with Screen() as screen:
        screen.until_prompt()
        screen.type("half a li")
        screen.until_prompt("half a li")
        service.machine.call(service.machine.ended.set)
        assert screen.until_ended() == 0
        screen.until_shown("has ended")
        assert screen.echoes()


def test_shutdown_from_the_console(service: Running) -> None:
    with Screen() as screen:
        screen.give("shutdown all")
        screen.until_shown("shutdown all: done")
        assert screen.until_ended() == 0


@pytest.mark.parametrize("variable", ["HOME", "XDG_STATE_HOME"])
def test_history_is_kept_privately_and_without_keys(service: Running, tmp_path: Path, variable: str) -> None:
    env = {"XDG_STATE_HOME": "", variable: str(tmp_path)}
    secrets = ("help access-key=secret", "help --env LEVEL=1", "help --db-password hunter2", "help http://a:b@c")
    with Screen(env=env) as screen:
        for line in ("version", *secrets, "health"):
            screen.give(line)
        screen.until_prompt()
        screen.type(CTRL_D)
        screen.until_ended()
    (file,) = tmp_path.rglob("history")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert file.read_text() == "version\nhealth\n"
    with Screen(env=env) as screen:
        screen.until_prompt()
        screen.type(UP)
        screen.until_prompt("health")
        screen.type(UP)
        screen.until_prompt("version")


@pytest.mark.parametrize("home", ["/proc/nosuch", "", "relative"])
def test_without_a_place_for_it_there_is_no_history_and_no_complaint(service: Running, home: str) -> None:
    with Screen(env={"HOME": home, "XDG_STATE_HOME": ""}) as screen:
        screen.give("version")
        screen.until_shown("cluster-service ")
        screen.until_prompt()
        screen.type(UP)
        screen.until_prompt("version")


def test_a_terminal_that_can_do_nothing_has_plain_lines(service: Running) -> None:
    with Screen(env={"TERM": "dumb"}) as screen:
        screen.until_prompt()
        screen.type("health\n")
        screen.until_shown("2 of 2 serving")
        screen.until_prompt()
        screen.type(CTRL_D)
        assert screen.until_ended() == 0
        assert b"\x1b[6n" not in screen.raw


def test_only_a_console_on_a_terminal_imports_prompt_toolkit(service: Running) -> None:
    program = (
        "import sys; from cluster_service.cli.command_line import run; run(sys.argv[1:]); "
        "print('prompt_toolkit' in sys.modules, file=sys.stderr)"
    )
    for words in (["workers"], []):
        done = subprocess.run(
            [sys.executable, "-c", program, *words], input="workers\n", capture_output=True, text=True, check=True
        )
        assert done.stderr == "False\n"


def test_its_exit_code_is_that_of_the_last_command_that_failed(service: Running) -> None:
    with Screen() as screen:
        screen.give("restart nosuch")
        screen.until_shown("nosuch'")
        screen.give("health")
        screen.until_shown("serving")
        screen.until_prompt()
        screen.type(CTRL_D)
        assert screen.until_ended() == 1


def test_the_console_is_what_the_program_is_without_a_command() -> None:
    done = subprocess.run([CSERVICE], capture_output=True, text=True, env={**os.environ}, check=False)
    assert done.returncode == 3
    assert "no service 'default' runs here" in done.stderr
