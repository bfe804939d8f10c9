"""Files of variables: their syntax, their errors, and where what they say goes."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from cluster_service.config import environment_files
from cluster_service.config.releases import release_of
from cluster_service.core.protocol.actions import Start
from cluster_service.errors import CommandError
from cluster_service.master import launch_plan

from .asking import make, release, sentence

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", {}),
        ("\n# one\n  ; two\n\n", {}),
        ("A=1", {"A": "1"}),
        ("A=1\r\nB=2\r\n", {"A": "1", "B": "2"}),
        ("  export A =  x y  \nB=", {"A": "x y", "B": ""}),
        ("A=a#b;c\nB=$A ${A} \\n 'x'", {"A": "a#b;c", "B": "$A ${A} \\n 'x'"}),
        ("A='$B \"\\n'  # said\nB=2", {"A": '$B "\\n', "B": "2"}),
        ('A="x\\n\\t\\"\\\\\\$ \\w $B # no"\n', {"A": 'x\n\t"\\$ \\w $B # no'}),
        ('A="one\ntwo\\\nthree"\nB=2', {"A": "one\ntwothree", "B": "2"}),
        ("A='one\n# two'\nB=2", {"A": "one\n# two", "B": "2"}),
        ("A=1\nA=2", {"A": "2"}),
        ("A=b=c", {"A": "b=c"}),
        ("A=''\nB=\"\"", {"A": "", "B": ""}),
        ("A=\nB=1", {"A": "", "B": "1"}),
        ("A=grün", {"A": "grün"}),
    ],
)
def test_the_syntax(text: str, found: dict[str, str]) -> None:
    assert environment_files.parse(text, "F") == found


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("A=1\nhush", "F:2: this line sets no variable"),
        ("1A=hush", "F:1: this line sets no variable"),
        ("A-B=hush", "F:1: this line sets no variable"),
        ("\n\nA='hush\nB=2\n", "F:3: the quote that begins the value of A is never closed"),
        ('A="hush\\"', "F:1: the quote"),
        ("A='hush' hush", "F:1: something follows the closing quote of A"),
        ("A=hush # hush", "F:1: a # or ; after a blank in the value of A"),
        ("A=hu\0sh", "F:1: the value of A holds a NUL"),
    ],
)
def test_an_error_names_the_line_and_quotes_nothing_of_it(text: str, said: str) -> None:
    told = sentence(lambda: environment_files.parse(text, "F"))
    assert told.startswith(said)
    assert "hush" not in told


def test_which_files_are_read(here: Path) -> None:
    (here / "a.env").write_text("A=1\nB=1\n")
    (here / "b.env").write_text("\ufeffB=2\nC=2\n")
    (here / "binary").write_bytes(b"A=\xff")
    made = release(env_files=["a.env", "-nosuch.env", "-b.env"], env={"C": "3"})
    assert made.env_files == (f"{here}/a.env", f"-{here}/nosuch.env", f"-{here}/b.env")
    assert dict(made.env_from_files) == {"A": "1", "B": "2", "C": "2"}
    for path, said in (
        ("nosuch.env", "there is no file"),
        ("-releases", "it is not a file"),
        ("binary", "not UTF-8"),
    ):
        told = sentence(lambda path=path: make(env_file=path))  # type: ignore[misc]
        assert said in told
        assert told.startswith("env_file: ")


def test_nothing_shows_what_they_say(here: Path) -> None:
    (here / "a.env").write_text("DATABASE=hush\n")
    settings = make(env_files="a.env")
    assert "hush" not in f"{settings!r} {settings.shown}"
    assert "a.env" in str(settings.shown)


def test_the_environment_that_a_worker_finds(here: Path) -> None:
    (here / "a.env").write_text("A=file\nB=file\nCSERVICE_ACCESS_KEY=hush\nLISTEN_FDS=9\nCSERVICE_SLOT=9\n")
    (group,) = make(env_files="a.env", env={"B": "env"}).spec.groups
    base = {"A": "base", "C": "base"}
    start = Start(1, "web", 1, 1, "start")
    found = launch_plan.spawn("default", start, group, group.release, "none", base, titles=True).env
    assert {name: found[name] for name in ("A", "B", "C", "CSERVICE_SLOT")} == {
        "A": "file", "B": "env", "C": "base", "CSERVICE_SLOT": "1",
    }  # fmt: skip
    assert not {"CSERVICE_ACCESS_KEY", "LISTEN_FDS"} & set(found)
    assert found["CSERVICE_TITLE"] == "cservice: default web.1"


def test_an_upgrade_reads_them_again_and_a_rollback_does_not(here: Path) -> None:
    (here / "a.env").write_text("A=1\n")
    group = make(env_files="a.env", nice=3).spec.groups[0]
    (here / "a.env").write_text("A=2\n")
    made = release_of("releases/v2.py", {}, directory=str(here), current=group.release)
    assert (made.env_from_files, group.release.env_from_files) == ((("A", "2"),), (("A", "1"),))
    assert made.within.nice == 3
    (here / "a.env").unlink()
    with pytest.raises(CommandError, match="there is no file"):
        release_of("releases/v2.py", {}, directory=str(here), current=group.release)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_another_user_finds_a_home_of_its_own(open_place: Path) -> None:
    (open_place / "worker.py").touch()
    env = launch_plan.of_release(release(user="nobody"), {"HOME": "/root", "USER": "root"})
    assert (env["HOME"], env["USER"], env["LOGNAME"]) == ("/nonexistent", "nobody", "nobody")
    env = launch_plan.of_release(release(user="nobody", env={"HOME": "/x"}), {"HOME": "/root"})
    assert env["HOME"] == "/x"


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("/opt/bin:$PATH", "$PATH"),
        ("/opt/bin:${PATH}", "${PATH}"),
        ("$OTHER/bin", "$OTHER"),
        ("pa$$word$NOSUCH", ""),
        ("5$ or $5", ""),
        ("$path", ""),
    ],
)
def test_a_variable_that_is_not_expanded_is_told(here: Path, value: str, told: str) -> None:
    """A password may hold a dollar sign, so nothing is expanded; but where a variable is meant, that is said."""
    (here / "cluster-service.toml").write_text(f"[env]\nOTHER = '/x'\nBIN = '{value}'\n")
    made = make("worker.py")
    assert dict(made.spec.groups[0].release.env)["BIN"] == value
    warnings = [warning for warning in made.warnings if "BIN" in warning]
    assert len(warnings) == bool(told), warnings
    assert all(f"BIN: {told} is not expanded" in warning for warning in warnings)
