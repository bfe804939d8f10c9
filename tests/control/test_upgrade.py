"""Upgrade, rollback, cancel and test at every door: what is sent, what is shown, and what it ends with."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from cluster_service.cli import rendering
from cluster_service.client.client import OperationFailed, connect
from cluster_service.commands.arguments import split
from cluster_service.errors import CommandError
from tests.control.machine import BAD, KEPT, KEY, Running
from tests.control.terminal import Terminal
from tests.control.test_cli import popen
from tests.control.test_http import ask
from tests.tools.screen import CTRL_C, Screen
from tests.tools.service import cservice

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "v2").mkdir()
    for name in ("v2/worker.py", "smoke.py", "bad.py"):
        (tmp_path / name).write_text("")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def placed(told: dict[str, Any], here: Path) -> dict[str, Any]:
    """*told* with {here} in its texts filled in."""
    return {
        name: value.replace("{here}", str(here)) if isinstance(value, str) else value for name, value in told.items()
    }


WORKER = {"upgrade": "all", "target": "{here}/v2/worker.py", "cwd": "{here}"}

LINES: list[tuple[str, dict[str, Any]]] = [
    ("upgrade all ./v2/worker.py", WORKER),
    ("upgrade all ./v2/worker.py ./v2 60", {**WORKER, "cwd": "{here}/v2", "timeout": 60.0}),
    ("upgrade all ./v2/worker.py timeout:60", {**WORKER, "timeout": 60.0}),
    ('upgrade all ./v2/worker.py {"monitor": "1500ms", "allowPortChange": true}',
     {**WORKER, "monitor": 1.5, "allow_port_change": True}),
    ("upgrade web v2/worker.py --monitor 0 --test smoke.py --health-check /health",
     {**WORKER, "upgrade": "web", "monitor": 0.0, "test": "{here}/smoke.py", "health_check": "/health"}),
    ("upgrade all shop:app --cwd v2 --server granian --env A=1 --env B=2",
     {"upgrade": "all", "target": "shop:app", "cwd": "{here}/v2", "server": "granian", "env": ["A=1", "B=2"]}),
    ("upgrade all v2/worker.py --python v2/bin/python --args one",
     {**WORKER, "python": "{here}/v2/bin/python", "args": ["one"]}),
    ("upgrade all v2/worker.py --python python3.13 -- --fast -x",
     {**WORKER, "python": "python3.13", "args": ["--fast", "-x"]}),
    ("upgrade all --cwd v2 -- node --inspect server.js '{\"a\": 1}'",
     {"upgrade": "all", "target": "node", "program": True, "cwd": "{here}/v2",
      "args": ["--inspect", "server.js", '{"a": 1}']}),
    ("upgrade all v2/worker.py -- runserver 23020", {**WORKER, "args": ["runserver", "23020"]}),
    ("upgrade all v2/worker.py -- -- x", {**WORKER, "args": ["--", "x"]}),
    ("upgrade all server:app", {"upgrade": "all", "target": "server:app", "cwd": "{here}"}),
    ("upgrade all -m http.server -- 8001",
     {"upgrade": "all", "target": "-m http.server", "cwd": "{here}", "args": ["8001"]}),
    ("upgrade web --cwd v2", {"upgrade": "web", "target": None, "cwd": "{here}/v2"}),
    ("upgrade all --env A=1 timeout:60", {"upgrade": "all", "target": None, "env": ["A=1"], "timeout": 60.0}),
    ("upgrade all --python v2/bin/python --timeout 60",
     {"upgrade": "all", "target": None, "python": "{here}/v2/bin/python", "timeout": 60.0}),
    ("upgrade all nosuch.py --test nosuch.py",
     {"upgrade": "all", "target": "nosuch.py", "cwd": "{here}", "test": "nosuch.py"}),
    ("rollback", {"rollback": "all", "monitor": None, "timeout": None}),
    ("rollback web 5 --monitor 1m", {"rollback": "web", "monitor": 60.0, "timeout": 5.0}),
    ("test ./smoke.py", {"test": "{here}/smoke.py", "timeout": None}),
    ("test smoke.py 1500", {"test": "{here}/smoke.py", "timeout": 1.5}),
    ("test smoke.py --timeout 0", {"test": "{here}/smoke.py", "timeout": None}),
    ("test smoke.py --timeout 0ms", {"test": "{here}/smoke.py", "timeout": None}),
    ("test smoke.py timeout:2.5", {"test": "{here}/smoke.py", "timeout": 0.0025}),
    ("test smoke.py --timeout 2s", {"test": "{here}/smoke.py", "timeout": 2.0}),
    ("test smoke.py 5m", {"test": "{here}/smoke.py", "timeout": 300.0}),
]  # fmt: skip


@pytest.mark.parametrize(("line", "told"), LINES)
@pytest.mark.parametrize("how", ["words", "console"])
def test_what_the_service_is_asked(service: Running, here: Path, how: str, line: str, told: dict[str, Any]) -> None:
    done = cservice(*split(line)) if how == "words" else cservice(stdin=line + "\n")
    assert done.code == 0, done
    assert service.machine.told == [placed(told, here)]


@pytest.mark.parametrize(
    ("name", "body", "told"),
    [
        ("upgrade", {"selector": "all", "target": "/v2/worker.py", "monitor": "1500ms", "allow-port-change": True},
         {"upgrade": "all", "target": "/v2/worker.py", "monitor": 1.5, "allow_port_change": True}),
        ("upgrade", {"selector": 4711, "target": "shop:app", "healthCheck": "/", "env": {"A": "1"}}, None),
        ("rollback", {}, {"rollback": "all", "monitor": None, "timeout": None}),
        ("test", {"script": "/smoke.py", "timeout": 1500}, {"test": "/smoke.py", "timeout": 1.5}),
        ("test", {"script": "/smoke.py", "timeout": "2s"}, {"test": "/smoke.py", "timeout": 2.0}),
    ],
)  # fmt: skip
def test_over_http(service: Running, name: str, body: dict[str, Any], told: dict[str, Any] | None) -> None:
    answer = ask(service, "POST", f"/api/v1/commands/{name}", json.dumps(body))
    if told is None:  # the machine has no such worker; what it was told is seen all the same
        assert answer.status == 404
        told = {"upgrade": "4711", "target": "shop:app", "health_check": "/", "env": {"A": "1"}}
    else:
        assert answer.status == 202, answer
    assert service.machine.told == [told]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("upgrade", ("all|GROUP|SLOT|PID is missing",)),
        ("upgrade all", ("nothing would change", "TARGET", "--cwd", "cservice restart all")),
        ("upgrade all v2/worker.py . runserver", ("'runserver' is not a duration",)),
        ("upgrade all v2/worker.py . 60 7", ("'7' is one argument too many",)),
        ("upgrade all v2/worker.py --monitor soon", ("monitor", "'soon' is not a duration", "10s")),
        ("upgrade all v2/worker.py --timeout 0", ("timeout", "no time at all")),
        ("upgrade all v2/worker.py --health-check health", ("health_check", "'health'", "/health")),
        ("upgrade all v2/worker.py --health-check 'http://x/y z'", ("health_check", "/health")),
        ("upgrade all v2/worker.py --server apache", ("'apache' is not one of uvicorn, granian",)),
        ("upgrade all v2/worker.py --montior 5", ("--montior", "--monitor")),
        ("upgrade all v2/worker.py --", ("nothing after --",)),
        ("rollback all 5 6", ("'6' is one argument too many",)),
        ("cancel 1 2", ("'2' is one argument too many",)),
        ("test", ("SCRIPT is missing",)),
        ("test smoke.py soon", ("'soon' is not a duration",)),
    ],
)
def test_a_sentence_for_what_cannot_be_meant(service: Running, line: str, words: tuple[str, ...]) -> None:
    for done in (cservice(*split(line)), cservice(stdin=line + "\n")):
        assert done.code == 2, done
        for word in words:
            assert word in done.err
    assert ask(service, "POST", "/cli", line).data["error"]["code"] == "bad_request"
    assert service.machine.told == []


@pytest.mark.parametrize("command", ["upgrade+all+/v2.py", "rollback", "cancel", "test+/smoke.py"])
def test_only_from_the_machine_itself(service: Running, command: str) -> None:
    answer = ask(service, "POST", f"/cli?cmd={command}", tcp=True, X_Access_Key=KEY, X_Forwarded_For="10.0.0.9")
    assert (answer.status, answer.data["error"]["code"]) == (403, "forbidden")
    assert service.machine.told == []


def test_a_line_a_step_and_the_end(service: Running, here: Path) -> None:
    target = here / "v2/worker.py"
    done = cservice("upgrade", "all", "./v2/worker.py")
    assert done.out.splitlines() == [
        f"upgrade all {target} begins",
        "web.1 replaced",
        "web.2 replaced",
        f"upgrade all {target}: done (2 of 2)",
    ]
    assert (done.code, done.err) == (0, "")


def test_a_bad_release_is_told_with_its_traceback(service: Running, here: Path) -> None:
    done = cservice("upgrade", "all", "bad.py")
    assert done.code == 1
    assert done.err.splitlines() == [
        f"cservice: upgrade all {here}/bad.py: undone: {BAD.splitlines()[0]}",
        "    Traceback (most recent call last):",
        '      File "/srv/bad/worker.py", line 3, in <module>',
        "    \timport nosuch",
        "    ImportError: nosuch",
    ]
    assert "failed: back to the old release" in done.out
    told = cservice("upgrade", "all", "bad.py", "--json")
    assert told.code == 1
    document = json.loads(told.out)
    assert document["error"]["code"] == "failed"
    assert (document["operation"]["state"], document["operation"]["id"]) == ("undone", "2")
    assert "Traceback (most recent call last):\n" in document["error"]["message"]
    answer = ask(service, "POST", "/cli", f"upgrade all {here}/bad.py")
    assert (answer.status, answer.data["operation"]["state"]) == (400, "undone")
    with pytest.raises(OperationFailed, match="ImportError: nosuch"):
        connect().command("upgrade", "all", "bad.py")
    assert service.machine.told[-1]["target"] == f"{here}/bad.py"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("", ""),
        ("why", "why"),
        ("why\nTraceback:\n  File", "why\n    Traceback:\n      File"),
        ("why\n    Traceback:\n\n      File", "why\n    Traceback:\n\n      File"),
        ("w\x1b[2J\n\x07\tbell", "w\\x1b[2J\n    \\x07\tbell"),
    ],
)
def test_a_reason_of_several_lines_is_indented_once(text: str, shown: str) -> None:
    assert rendering.clean_lines(text, rendering.INDENT) == shown


def begin(service: Running, *more: str) -> dict[str, Any]:
    """Begin an upgrade that waits to be told how it goes; return it as the machine has it."""
    assert cservice("upgrade", "all", "v2/worker.py", "--no-wait", *more).code == 0
    return service.machine.done[-1]


def test_a_second_one_is_refused_with_the_id_of_the_first(held: Running) -> None:
    begun = cservice("upgrade", "all", "v2/worker.py", "--no-wait")
    assert "as operation 1; follow it: cservice operations 1" in begun.out
    for words in (("upgrade", "all", "v2/worker.py"), ("rollback",), ("restart", "all")):
        done = cservice(*words)
        assert (done.code, done.out) == (1, "")
        assert "operation 1 is under way" in done.err
        assert cservice(stdin=" ".join(words) + "\n").code == 1
    assert ask(held, "POST", "/cli?cmd=rollback").status == 400
    answer = ask(held, "POST", "/api/v1/commands/rollback", "{}")
    assert (answer.status, answer.data["error"]["code"]) == (409, "busy")


@pytest.mark.parametrize("words", [("cancel",), ("cancel", "1")])
def test_cancel_has_succeeded_when_the_operation_is_cancelled(held: Running, words: tuple[str, ...]) -> None:
    begin(held)
    held.machine.following.clear()
    follower = popen("operations", "1")
    assert held.machine.following.wait(20)
    done = cservice(*words)
    assert (done.code, done.err) == (0, "")
    assert "back to the old release" in done.out
    assert "cancelled (0 of 2): cancelled by an operator" in done.out
    out, err = follower.communicate(timeout=20)
    assert follower.returncode == 1
    assert "back to the old release" in out
    assert "cancelled: cancelled by an operator" in err
    again = cservice(*words)
    assert (again.code, "no operation runs" in again.err) == (1, True)


def test_cancel_at_the_other_doors(held: Running) -> None:
    begin(held)
    answer = ask(held, "POST", "/cli?cmd=cancel")
    assert (answer.status, answer.data["state"]) == (200, "cancelled")
    begin(held)
    answer = ask(held, "POST", "/api/v1/commands/cancel", "{}")
    assert (answer.status, answer.data["id"]) == (202, "2")
    begin(held)
    assert json.loads(cservice("cancel", "--json").out)["state"] == "cancelled"
    begin(held)
    assert connect().command("cancel", "4")["state"] == "cancelled"
    begin(held)
    assert cservice(stdin="cancel\n").code == 0


OUTPUT = "ok 1\n\n\tok 2 \\x1b[2J\n"
"""What the machine's test script wrote, as it is shown."""


def test_the_output_of_a_test_is_shown_as_it_is(service: Running, here: Path) -> None:
    done = cservice("test", "smoke.py")
    assert (done.code, done.err) == (0, "")
    assert done.out == OUTPUT + f"test {here}/smoke.py: done\n"
    with Terminal("test", "smoke.py") as terminal:
        assert terminal.end() == 0
        assert terminal.shown.startswith(OUTPUT)
    document = json.loads(cservice("test", "smoke.py", "--json").out)
    assert [step["text"] for step in document["steps"]] == service.machine.output
    assert cservice(stdin="test smoke.py\n").out.startswith(OUTPUT)


def test_a_test_that_fails(service: Running, here: Path) -> None:
    done = cservice("test", "bad.py")
    assert done.code == 1
    assert done.out == OUTPUT
    assert done.err == f"cservice: test {here}/bad.py: failed: it exited with code 3\n"
    assert ask(service, "POST", "/cli", f"test {here}/bad.py").status == 400


# -- on a terminal -----------------------------------------------------------------------------------------------------


def change(service: Running, operation: dict[str, Any], **facts: Any) -> None:
    service.machine.call(functools.partial(operation.update, **facts))


def test_the_display_shows_stage_workers_and_time_left(held: Running, here: Path) -> None:
    operation = begin(held)
    with Terminal("operations", "1") as terminal:
        terminal.until("check: looking whether the code can run")
        terminal.until("0 of 2 · workers: 2 old, 0 new")
        change(held, operation, stage="canary", workers={"old": 2, "new": 1}, monitor_left_s=6.4)
        held.machine.call(held.machine.step, operation, "canary: web.1 (pid 103) serves beside the old release")
        terminal.until("canary: web.1 (pid 103) serves beside the old release\n")
        terminal.until("canary: one new worker beside the old ones")
        terminal.until("0 of 2 · workers: 2 old, 1 new · 7 s left to watch")
        change(held, operation, monitor_left_s=0.9)  # no step tells of it
        terminal.until("2 old, 1 new · 1 s left to watch")
        change(held, operation, stage="roll", workers={"old": 1, "new": 1}, monitor_left_s=None, replaced=1)
        terminal.until("1 of 2 · workers: 1 old, 1 new")
        held.machine.call(held.machine.finish, operation, "done", None)
        assert terminal.end() == 0
        last = terminal.shown.rpartition("\x1b[2K")[2]  # the display is wiped away, and then:
        assert last.strip("\r\n").startswith(f"upgrade all {here}/v2/worker.py: ")
        assert "done\x1b[0m (1 of 2)" in last


def test_the_display_of_what_is_undone(held: Running) -> None:
    operation = begin(held)
    with Terminal("operations", "1") as terminal:
        terminal.until("check: looking")
        change(held, operation, stage="undo")
        terminal.until("undo: putting the old release back")
        held.machine.call(held.machine.finish, operation, "undone", "web.1 died\nImportError: nosuch")
        assert terminal.end() == 1
        last = terminal.shown.rpartition("\x1b[2K")[2]
        assert last.strip("\r\n").endswith("undone: web.1 died\n    ImportError: nosuch")


def test_ctrl_c_on_a_terminal_leaves_and_says_how_to_rejoin(held: Running, here: Path) -> None:
    with Terminal("upgrade", "all", "v2/worker.py") as terminal:
        terminal.until("workers: 2 old, 0 new")
        terminal.interrupt()
        assert terminal.end() == 130
        last = terminal.shown.rpartition("\x1b[2K")[2]
        assert last.strip("\r\n") == (
            f"cservice: left; upgrade all {here}/v2/worker.py goes on as operation 1. Rejoin it: cservice operations 1"
        )
    assert held.machine.done[0]["state"] == "running"


def test_a_console_on_a_terminal_has_the_display_and_stays(held: Running) -> None:
    with Screen() as screen:
        screen.give("upgrade all v2/worker.py")
        screen.until_shown("workers: 2 old, 0 new")
        screen.type(CTRL_C)
        screen.until_shown("Rejoin it: cservice operations 1")
        screen.give("cancel")
        screen.until_shown("cancelled (0 of 2)")
        screen.give("quit")
        assert screen.until_ended() == 130


@pytest.mark.parametrize(
    ("env", "display", "colour"),
    [({}, True, True), ({"NO_COLOR": "1"}, True, False), ({"TERM": "dumb"}, False, False)],
)
def test_terminals_of_other_kinds(held: Running, env: dict[str, str], display: bool, colour: bool) -> None:
    operation = begin(held)
    held.machine.following.clear()
    with Terminal("operations", "1", env=env) as terminal:
        assert held.machine.following.wait(20)
        held.machine.call(held.machine.finish, operation, "done", None)
        assert terminal.end() == 0
        assert ("looking whether" in terminal.shown) is display
        assert ("\x1b[36m" in terminal.shown) is colour
        if not display:
            assert "\x1b" not in terminal.shown


def test_neither_piped_nor_as_json_is_rich_imported(service: Running) -> None:
    program = (
        "import sys; from cluster_service.cli.command_line import run; code = run(sys.argv[1:]); "
        "print(sorted({'rich', 'asyncio', 'subprocess', 'datetime'} & set(sys.modules)), file=sys.stderr)"
    )
    for words in (["upgrade", "all", "v2/worker.py"], ["test", "smoke.py", "--json"], ["rollback"]):
        done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, check=True)
        assert "rich" not in done.stderr
        assert done.stderr == "['datetime']\n"  # http.client's


# -- steps that are not remembered -------------------------------------------------------------------------------------


def many(service: Running, operation: dict[str, Any], first: int, last: int) -> None:
    """Tell the steps *first* to *last*, all in one turn."""

    def tell() -> None:
        for number in range(first, last + 1):
            service.machine.step(operation, f"step {number}")

    service.machine.call(tell)


def test_no_step_is_lost_or_told_twice_when_the_first_ones_are_cut(held: Running) -> None:
    operation = begin(held)
    held.machine.following.clear()
    follower = popen("operations", "1")
    for first in range(1, 2 * KEPT, KEPT // 2):
        assert held.machine.following.wait(20)
        held.machine.following.clear()
        many(held, operation, first, first + KEPT // 2 - 1)
    assert held.machine.following.wait(20)
    held.machine.call(held.machine.finish, operation, "done", None)
    out, _ = follower.communicate(timeout=20)
    steps = [line for line in out.splitlines() if line.startswith("step ")]
    assert steps == [f"step {number}" for number in range(1, 2 * KEPT + 1)]
    assert "not remembered" not in out


def test_who_rejoins_is_told_how_many_steps_are_not_remembered(held: Running) -> None:
    operation = begin(held)
    many(held, operation, 1, KEPT + 4)
    held.machine.call(held.machine.finish, operation, "done", None)
    out = cservice("operations", "1").out.splitlines()
    assert out[:2] == ["(5 steps before this are not remembered)", "step 5"]
    assert out[-2] == f"step {KEPT + 4}"
    texts: list[str] = []
    connect().follow("1", lambda step: texts.append(step["text"]))
    assert texts == out[:-1]


def test_what_is_seen_is_counted_from_the_beginning(held: Running) -> None:
    operation = begin(held)
    many(held, operation, 1, KEPT + 4)
    answer = ask(held, "GET", f"/api/v1/operations/1?seen={KEPT + 4}&wait=20")
    assert answer.data["steps_dropped"] + len(answer.data["steps"]) == KEPT + 5
    held.machine.following.clear()
    follower = popen("operations", "1", "--json")
    assert held.machine.following.wait(20), "it waits for news rather than asking again and again"
    held.machine.call(held.machine.finish, operation, "done", None)
    assert json.loads(follower.communicate(timeout=20)[0])["steps_dropped"] == 5


# -- the original's flow -----------------------------------------------------------------------------------------------


def test_a_second_start_in_another_directory_is_a_console_that_upgrades(service: Running, here: Path) -> None:
    (here / "v2/v2").mkdir()
    (here / "v2/v2/worker.py").write_text("")
    done = cservice("start", "./v2/worker.py", stdin="upgrade all ./v2/worker.py\n", cwd=here / "v2")
    assert done.code == 0, done
    assert "already running; nothing was started" in done.err
    assert f"upgrade all {here}/v2/v2/worker.py: done (2 of 2)" in done.out
    assert service.machine.told == [{"upgrade": "all", "target": f"{here}/v2/v2/worker.py", "cwd": f"{here}/v2"}]
    assert cservice("start", "nosuch:app", cwd=here, stdin="version\n").code == 0
    with Screen("start", "./v2/worker.py", cwd=here / "v2") as screen:
        screen.give("upgrade all ./v2/worker.py")
        screen.until_shown("(2 of 2)")
        screen.give("quit")
        assert screen.until_ended() == 0


def test_the_list_and_info_show_an_upgrade_that_runs(held: Running) -> None:
    begin(held)
    heads, row = cservice("operations").out.splitlines()
    assert heads.split()[:4] == ["ID", "COMMAND", "STATE", "STAGE"]
    assert row.split()[-4:-1] == ["check", "0/2", "2030-01-02T03:04:05.000Z"]


def test_a_refusal_from_a_service_that_knows_no_such_operation(service: Running) -> None:
    with pytest.raises(CommandError, match="no operation runs"):
        connect().command("cancel")


def test_a_worker_that_should_listen_and_does_not_is_shown() -> None:
    row = {"group": "web", "slot": 1, "pid": 7, "state": "serving", "detail": "does not listen on any port"}
    data = {"service": "x", "workers": [{**row, "not_listening": True}]}
    shown = rendering.RENDERINGS["workers"](data, terminal=False)
    assert "serving (not listening)" in shown
    assert shown.endswith("web.1: does not listen on any port")
