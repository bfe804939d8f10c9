"""Tab in real shells, on a terminal: what stands on the line then, and what is offered where there is a choice."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.tools.screen import Screen
from tests.tools.service import CSERVICE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.control.machine import Running


class Shell(NamedTuple):
    """How it is started without anybody's settings, told to show a plain prompt, and given our script."""

    name: str
    options: tuple[str, ...]
    prepare: str
    load: str


SHELLS = (
    Shell(
        "bash",
        ("--norc", "-i"),
        "PS1='$ '; bind 'set show-all-if-ambiguous on'",
        "source <(cservice completion bash)",
    ),
    Shell(
        "zsh",
        ("-f", "-i"),
        "PS1='$ '; unsetopt prompt_sp; autoload -U compinit; compinit -u -D",
        "source <(cservice completion zsh)",
    ),
    Shell(
        "fish",
        ("--no-config", "-i"),
        "function fish_prompt; echo '$ '; end; set -g fish_autosuggestion_enabled 0",
        "cservice completion fish | source",
    ),
)
KILL_LINE = "\x15"
COMPLETED = (
    ("cservice resta\t", "cservice restart"),
    ("cservice restart we\t.\t1", "cservice restart web.1"),
    ("cservice restart 101\t", "cservice restart 101"),
    ("cservice upgrade all rel\t", "cservice upgrade all release.py"),
    ("cservice start --share=sec\t", "cservice start --share=seccomp"),
    ("cservice restart all --no-w\t", "cservice restart all --no-wait"),
    ("cservice --name def\t", "cservice --name default"),
    ("cserviced --log-f\t", "cserviced --log-file"),
)
"""What is typed, and what the line is then."""


@pytest.fixture(params=SHELLS, ids=lambda shell: shell.name)
def shell(request: pytest.FixtureRequest, tmp_path: Path, run_dir: Path) -> Iterator[Screen]:
    """A shell that has our script, in a directory with one file."""
    kind: Shell = request.param
    program = shutil.which(kind.name)
    if program is None:
        pytest.skip(f"{kind.name} is not installed: apt-get install {kind.name}")
    (tmp_path / "release.py").write_text("")
    path = os.path.dirname(CSERVICE) + os.pathsep + os.environ["PATH"]
    with Screen(*kind.options, command=(program,), cwd=tmp_path, env={"PATH": path, "HOME": str(tmp_path)}) as screen:
        screen.type(f"{kind.prepare}\n")
        screen.until_line("$")
        screen.type(f"{kind.load}; echo lo''aded\n")
        screen.until_shown("loaded")
        screen.until_line("$")
        yield screen
        screen.type("exit\n")
        screen.until_ended()
    (run_dir / "fish_universal_variables.notifier").unlink(missing_ok=True)  # fish leaves it for other fishes


def test_tab(service: Running, shell: Screen) -> None:
    for typed, completed in COMPLETED:
        shell.type(typed)
        shell.until_line(f"$ {completed}")
        shell.type(KILL_LINE)
        shell.until_line("$")


def test_a_choice_is_offered(service: Running, shell: Screen) -> None:
    shell.type("cservice restart web.\t")
    shell.until_shown("web.2")
    if "bash" not in str(shell.process.args):  # it shows words alone
        shell.until_shown("serving (pid 102)")
    shell.type(KILL_LINE)  # a key: fish may not hear Ctrl-C yet
    shell.until_line("$")
