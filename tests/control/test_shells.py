"""Completion in shells, and the manual page."""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from cluster_service.cli.local_commands import escaped, page
from cluster_service.commands.registry import COMMANDS
from cluster_service.config.settings_table import SETTINGS
from tests.control.machine import running
from tests.tools.service import cservice

if TYPE_CHECKING:
    from pathlib import Path

    from tests.control.machine import Running


def words(line: str, shell: str = "zsh") -> list[str]:
    done = cservice("completion", "--words", shell, line)
    assert (done.code, done.err) == (0, "")
    return [answer.split("\t")[0] for answer in done.out.splitlines()]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("cserv", []),
        ("cservice resta", ["restart"]),
        ("cservice man", ["man"]),
        ("cservice completion z", ["zsh"]),
        ("cservice restart web.", ["web.1", "web.2"]),
        ("cservice restart 10", ["101", "102"]),
        ("/usr/bin/cservice --json restart al", ["all"]),
        ("cservice restart all --no", ["--no-wait"]),
        ("cservice restart all --na", ["--name"]),
        ("cservice --na", ["--name"]),
        ("cservice --name d", ["default"]),
        ("cservice --name=d", ["--name=default"]),
        ("cservice --ca-file x", [":files"]),
        ("cservice --run-dir ", [":directories"]),
        ("cservice start ap", [":files"]),
        ("cservice start --share s", ["seccomp"]),
        ("cservice start --share=s", ["--share=seccomp"]),
        ("cservice start --cwd ", [":directories"]),
        ("cservice start -w 4 --log-f", ["--log-file"]),
        ("cservice start app.py --log", [":files"]),
        ("cservice start shop:app --log", ["--log-file", "--log-max-size", "--log-keep"]),
        ("cservice server.py --log", [":files"]),
        ("cserviced --log-f", ["--log-file"]),
        ("cservice upgrade all v2.py ", [":directories"]),
        ("cservice nosuch ", []),
    ],
)
def test_what_a_shell_is_told(service: Running, line: str, expected: list[str]) -> None:
    assert words(line) == expected


def test_the_service_that_is_meant_is_asked(run_dir: Path, service: Running) -> None:
    with running(run_dir, "other", keys=()) as other:
        other.machine.groups = {"jobs": [7]}
        assert words("cservice --name other scale 4 ") == ["jobs"]
        assert words("cservice scale 4 ") == ["web"]
        assert set(words("cservice --name ")) == {"default", "other"}


def test_without_a_service_the_rest_is_told() -> None:
    assert words("cservice restart ") == ["all"]
    assert words("cservice restart all --no") == ["--no-wait"]


@pytest.mark.parametrize(
    ("line", "expected"),
    [("cservice start --share=s", ["seccomp"]), ("cservice restart all no_wait:t", ["true"])],
)
def test_bash_is_told_what_follows_where_it_begins_a_word(service: Running, line: str, expected: list[str]) -> None:
    assert words(line, "bash") == expected


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script(shell: str) -> None:
    done = cservice("completion", shell)
    assert (done.code, done.err) == (0, "")
    assert "cservice" in done.out
    program = shutil.which(shell)
    if program is not None:
        assert subprocess.run([program, "-n"], input=done.out, text=True, check=False).returncode == 0


def test_a_shell_that_is_none() -> None:
    done = cservice("completion", "tcsh")
    assert done.code == 2
    assert "tcsh" in done.err


# -- the manual page ---------------------------------------------------------------------------------------------------


def test_every_command_and_setting_stands_in_the_manual() -> None:
    text = page()
    for command in COMMANDS.all():
        assert f".SS {escaped(command.usage)}\n" in text
    for setting in SETTINGS:
        assert all(escaped(flag) in text for flag in setting.flags)
    assert text.isascii()


def test_no_line_of_the_manual_is_taken_for_a_request() -> None:
    requests = {match[0] for match in re.finditer(r"^[.'][A-Za-z]*", page(), re.MULTILINE)}
    assert requests <= {".TH", ".SH", ".SS", ".PP", ".TP", ".B", ".br"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a-b", r"a\-b"),
        ("`--x`", r"\fB\-\-x\fR"),
        (".dot", r"\&.dot"),
        ("a\\b", r"a\eb"),
        ("it's", r"it\(aqs"),
        ("a\n  b", "a b"),
        ("…", r"\[u2026]"),
    ],
)
def test_what_roff_would_take_for_its_own(text: str, expected: str) -> None:
    assert escaped(text) == expected


@pytest.mark.skipif(shutil.which("groff") is None, reason="groff is not installed")
def test_groff_has_nothing_to_say() -> None:
    done = subprocess.run(["groff", "-man", "-ww", "-z"], input=page(), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_manual_is_printed_where_there_is_no_terminal() -> None:
    done = cservice("man")
    assert (done.code, done.out) == (0, page())
