"""What a remote key may give: every command and every argument of the registry, and nothing by default."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import pytest

from cluster_service.commands.registry import BUILT_IN, COMMANDS, Command, Parameter
from cluster_service.errors import CommandError
from cluster_service.master.custom_command_registry import Extensions
from cluster_service.server import allowed_paths
from tests.control.machine import KEY, Running, running
from tests.control.test_http import ask

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ALLOWED: dict[str, dict[str, str]] = {
    "start": {
        "target": "target", "cwd": "directory",
        **dict.fromkeys(
            ("timeout", "group", "workers", "ready_timeout", "stop_timeout", "ready_after", "auto_restart",
             "restart_delay", "restarts_per_minute", "monitor", "server", "no_wait"),
            "plain",
        ),
    },
    "upgrade": {
        "target": "target", "cwd": "directory", "test": "file",
        **dict.fromkeys(
            ("selector", "timeout", "server", "monitor", "health_check", "allow_port_change", "no_wait"), "plain"
        ),
    },
    "test": {"script": "file", "timeout": "plain", "no_wait": "plain"},
    "restart": dict.fromkeys(("selector", "timeout", "no_wait"), "plain"),
    "shutdown": dict.fromkeys(("selector", "timeout", "no_wait"), "plain"),
    "rollback": dict.fromkeys(("selector", "timeout", "monitor", "no_wait"), "plain"),
    "cancel": dict.fromkeys(("operation", "no_wait"), "plain"),
    "scale": dict.fromkeys(("change", "group", "timeout", "no_wait"), "plain"),
    "reload": dict.fromkeys(("timeout", "monitor", "plan", "no_wait"), "plain"),
    "exit": {"when": "plain"},
    "operations": dict.fromkeys(("operation", "no_wait"), "plain"),
    "events": dict.fromkeys(("limit", "follow"), "plain"),
    "logs": dict.fromkeys(("lines", "follow"), "plain"),
    "config": dict.fromkeys(("action", "running"), "plain"),
    "help": {"command": "plain"},
    "workers": {}, "health": {}, "info": {}, "version": {},
}  # fmt: skip
"""Before you add a line: could a remote key run, open or create something with it, outside of the upgrade roots?"""

HOW_TO_FIX = "decide whether a remote key may give it, and then say so in its definition and here"


@pytest.mark.parametrize("name", BUILT_IN)
def test_what_a_remote_key_may_give_was_decided(name: str) -> None:
    command = COMMANDS.get(name)
    declared = {parameter.name: parameter.remote for parameter in command.parameters if parameter.remote}
    assert command.remote is (name in ALLOWED), HOW_TO_FIX
    assert declared == ALLOWED.get(name, {}), HOW_TO_FIX
    assert set(declared.values()) <= set(allowed_paths.CHECKS)


def refused(command: Command, given: dict[str, Any], *inside: str) -> str:
    """Return the message of the refusal, or the empty text."""
    try:
        allowed_paths.confined(command, given, inside)
    except CommandError as error:
        return error.message if error.code == "forbidden" else error.code
    return ""


@pytest.mark.parametrize("name", BUILT_IN)
def test_everything_else_is_refused(name: str, tmp_path: Path) -> None:
    command = COMMANDS.get(name)
    for parameter in command.parameters:
        message = refused(command, {parameter.name: "x"}, str(tmp_path))
        if name not in ALLOWED:
            assert "may not be given by a remote key" in message
        elif parameter.name not in ALLOWED[name]:
            assert "a remote key may not give this argument" in message, parameter.name
        elif ALLOWED[name][parameter.name] != "plain":
            assert message, parameter.name


def test_what_was_not_declared_is_refused_by_default() -> None:
    def run(service: object, **_: object) -> dict[str, Any]:
        raise AssertionError

    later = Command("later", "x", run, (Parameter("file", "text", "x"),), access="remote")
    assert "later may not be given by a remote key" in refused(later, {})
    declared = Command("later", "x", run, later.parameters, access="remote", remote=True)
    assert refused(declared, {}) == ""
    assert "file: a remote key may not give this argument" in refused(declared, {"file": "x"})


def test_no_remote_key_calls_a_function_with_arguments(tmp_path: Path) -> None:
    """``main:os.system('…')`` would run anything."""
    (tmp_path / "main.py").touch()
    given = {"selector": "all", "cwd": str(tmp_path)}
    assert refused(COMMANDS.get("upgrade"), {**given, "target": "main:app"}, str(tmp_path)) == ""
    for target in ("main:create_app('x')", "main:os.system('x')", "main:create_app()"):
        told = refused(COMMANDS.get("upgrade"), {**given, "target": target}, str(tmp_path))
        assert "may not call a function" in told


def test_the_target_that_is_there_stays_for_the_owner_only(tmp_path: Path) -> None:
    """In another directory it would be other code, which no remote key has named."""
    upgrade = COMMANDS.get("upgrade")
    for given in ({}, {"cwd": str(tmp_path)}, {"server": "granian"}):
        assert "a remote key must name the target" in refused(upgrade, {"selector": "all", **given}, str(tmp_path))


def test_a_custom_command_that_overrides_a_built_in_gives_no_more(tmp_path: Path) -> None:
    """Its handler may pass on what it was given to the built-in."""

    def upgrade(context: Any, selector: str, target: str, env: dict[str, Any], python: int, note: str = "") -> None:
        raise AssertionError

    command = Extensions(type(COMMANDS)()).command("upgrade", upgrade, access="remote").command
    (tmp_path / "worker.py").touch()
    root = str(tmp_path)
    assert refused(command, {"selector": "all", "target": f"{root}/worker.py", "note": "x"}, root) == ""
    for given in ({"target": "/etc/passwd"}, {"env": {"PYTHONPATH": "/"}}, {"python": 1}):
        assert refused(command, given, root)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """``releases`` is a root; ``elsewhere`` is not."""
    for folder in ("releases/app/package", "elsewhere/package"):
        (tmp_path / folder).mkdir(parents=True)
    for file in ("main.py", "package/__init__.py", "package/inner.py", "os.py", "tool"):
        (tmp_path / "releases/app" / file).touch()
    for file in ("main.py", "package/__init__.py"):
        (tmp_path / "elsewhere" / file).touch()
    os.chmod(tmp_path / "releases/app/tool", 0o755)  # it is a program
    (tmp_path / "releases/link.py").symlink_to(tmp_path / "elsewhere/main.py")
    (tmp_path / "releases/app/away").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "releases/app/package/out.py").symlink_to(tmp_path / "elsewhere/main.py")
    (tmp_path / "current").symlink_to(tmp_path / "releases")
    (tmp_path / "releases-2").mkdir()
    (tmp_path / "releases-2/main.py").touch()
    return tmp_path


@pytest.mark.parametrize(
    "given",
    [
        {"target": "{}/elsewhere/main.py"},
        {"target": "{}/releases/../elsewhere/main.py"},
        {"target": "{}/releases//..//elsewhere/main.py"},
        {"target": "//{}/elsewhere/main.py"},
        {"target": "{}/releases/link.py"},
        {"target": "{}/releases/app/away/main.py"},
        {"target": "{}/releases-2/main.py"},
        {"target": "{}/releases/app/nosuch.py"},
        {"target": "{}/releases/app"},
        {"target": "{}/releases/app/tool"},
        {"target": "{}/releases/app/main.py\0.py"},
        {"target": "{}/releases/" + "x" * 5000 + ".py"},
        {"target": "main.py"},
        {"target": "./main.py"},
        {"target": "~/main.py"},
        {"target": "main.py", "cwd": "{}/elsewhere"},
        {"target": "../../elsewhere/main.py", "cwd": "{}/releases/app"},
        {"target": "main.py", "cwd": "releases/app"},
        {"target": "main.py", "cwd": "~"},
        {"target": "main.py", "cwd": "{}/releases/app/away"},
        {"target": "main.py", "cwd": "{}/releases/app/main.py"},
        {"target": "main:app"},
        {"target": "nosuch:app", "cwd": "{}/releases/app"},
        {"target": "os:system", "cwd": "{}/releases/app"},
        {"target": "http.server:test", "cwd": "{}/releases/app"},
        {"target": "away.main:app", "cwd": "{}/releases/app"},
        {"target": "package.out:app", "cwd": "{}/releases/app"},
        {"target": "../elsewhere/main:app", "cwd": "{}/releases/app"},
        {"target": "{}/elsewhere/main.py:app"},
        {"target": "tool", "cwd": "{}/releases/app"},
        {"target": "sleep", "cwd": "{}/releases/app"},
        {"target": 7},
    ],
)
def test_code_outside_the_roots_is_refused(tree: Path, given: dict[str, Any]) -> None:
    placed = {name: value.format(tree) if isinstance(value, str) else value for name, value in given.items()}
    for name in ("start", "upgrade"):
        assert refused(COMMANDS.get(name), placed, str(tree / "current")), placed


@pytest.mark.parametrize(
    ("given", "passed"),
    [
        ({"target": "{}/current/app/main.py"}, {"target": "{}/releases/app/main.py"}),
        ({"target": "{}//releases/./app/../app/main.py"}, {"target": "{}/releases/app/main.py"}),
        (
            {"target": "main.py", "cwd": "{}/current/app"},
            {"target": "{}/releases/app/main.py", "cwd": "{}/releases/app"},
        ),
        ({"target": "main:app", "cwd": "{}/current/app"}, {"target": "main:app", "cwd": "{}/releases/app"}),
        (
            {"target": "package.inner:app", "cwd": "{}/releases/app"},
            {"target": "package.inner:app", "cwd": "{}/releases/app"},
        ),
    ],
)
def test_code_in_the_roots_is_passed_on_by_its_real_path(
    tree: Path, given: dict[str, str], passed: dict[str, str]
) -> None:
    """So that a link that is moved later changes nothing."""

    def placed(arguments: dict[str, str]) -> dict[str, str]:
        return {name: value.format(os.path.realpath(tree)) for name, value in arguments.items()}

    assert allowed_paths.confined(COMMANDS.get("upgrade"), placed(given), [str(tree / "current")]) == placed(passed)


def test_without_a_root_no_code_can_be_named(tree: Path) -> None:
    for name, given in (("start", "target"), ("upgrade", "target"), ("test", "script")):
        with pytest.raises(CommandError, match="names code to run") as refusal:
            allowed_paths.confined(COMMANDS.get(name), {given: f"{tree}/releases/app/main.py"}, [])
        assert "--upgrade-root" in refusal.value.hint


@pytest.fixture
def remote(run_dir: Path, tree: Path) -> Iterator[Running]:
    """A service at which a key may start, upgrade and test, in ``releases``."""
    rules: dict[str, Any] = {
        "remote_commands": ("start", "upgrade", "test", "ls"),
        "upgrade_roots": (str(tree / "releases"),),
    }
    with running(run_dir, at_once=True, trust_loopback=False, **rules) as opened:
        yield opened


@pytest.mark.parametrize(
    "words",
    [
        "start {}/releases/app/main.py --bind unix:/etc/x.sock --group g",
        "start {}/releases/app/main.py --check-command id --group g",
        "start {}/releases/app/main.py --user root",
        "start {}/releases/app/main.py --env-files /etc/passwd",
        "start {}/releases/app/main.py --share none",
        "start -- {}/releases/app/tool",
        "start {}/releases/app/main.py -- -c evil",
        "start {}/releases/app/main.py / 60",
        'start {}/releases/app/main.py {{"bind": ["unix:/etc/x.sock"]}}',
        'start {}/releases/app/main.py {{"checkCommand": ["id"], "timeout": 60}}',
        "upgrade all ./main.py ./elsewhere 60",
        "upgrade all {}/elsewhere/main.py timeout:60",
        "upgrade all {}/releases/app/main.py {}/elsewhere timeout:60",
        "upgrade all {}/releases/app/main.py --python /bin/sh",
        "upgrade all {}/releases/app/main.py --env PYTHONPATH=/tmp",
        "upgrade all {}/releases/app/main.py --test /bin/true",
        "upgrade all -- {}/releases/app/tool",
        'upgrade all {}/releases/app/main.py {{"env": {{"LD_PRELOAD": "x"}}}}',
        'upgrade all {}/releases/app/main.py {{"program": true}}',
        "test /bin/true",
        "ls",
    ],
)
def test_every_way_to_give_a_command_is_checked(remote: Running, tree: Path, words: str) -> None:
    line = words.format(tree, tree)
    answers = [
        ask(remote, "POST", "/cli?" + urlencode({"cmd": line}), tcp=True, X_Access_Key=KEY),
        ask(remote, "POST", "/cli", line, tcp=True, X_Access_Key=KEY),
        ask(remote, "POST", "/cli", json.dumps({"cmd": line, "access_key": KEY}), tcp=True),
    ]
    for answer in answers:
        assert (answer.status, answer.data["error"]["code"]) == (403, "forbidden"), answer
    assert remote.machine.told == []


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("start", {"check_command": ["id"]}),
        ("start", {"checkCommand": ["id"]}),
        ("start", {"bind": ["unix:/etc/x.sock"]}),
        ("start", {"env-files": ["/etc/passwd"]}),
        ("upgrade", {"selector": "all", "args": ["-c", "evil"]}),
        ("upgrade", {"selector": "all", "program": True}),
        ("upgrade", {"selector": "all", "test": "/bin/true"}),
    ],
)
def test_arguments_in_json_are_checked(remote: Running, tree: Path, name: str, given: dict[str, Any]) -> None:
    body = {"target": f"{tree}/releases/app/main.py", **given}
    answer = ask(remote, "POST", f"/api/v1/commands/{name}", json.dumps(body), tcp=True, X_Access_Key=KEY)
    assert (answer.status, answer.data["error"]["code"]) == (403, "forbidden"), answer
    assert remote.machine.told == []


def test_code_in_the_roots_can_be_given(remote: Running, tree: Path) -> None:
    main = f"{tree}/releases/app/main.py"
    for line in (
        f"start {main} --group g --workers 1",
        f"upgrade all {main} {tree}/releases/app timeout:60",
        f"upgrade all {main} {tree}/releases/app 60",
        f'upgrade all {main} {{"timeout": 60, "monitor": "1s"}}',
        f"test {main}",
    ):
        answer = ask(remote, "POST", "/cli", line, tcp=True, X_Access_Key=KEY)
        assert answer.status == 200, answer
    assert [main in told.values() for told in remote.machine.told] == [True] * 5
