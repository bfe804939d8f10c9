"""The commands that ``cservice`` runs without a service: ``completion SHELL`` and ``man``."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import click

from .registry import Command, Parameter
from .session import out

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

SHELLS = ("bash", "zsh", "fish")


def _nothing() -> dict[str, Any]:
    return {}


LOCAL = (
    Command(
        "completion",
        "Print the script that completes cservice in a shell: source <(cservice completion bash).",
        _nothing,
        (Parameter("shell", "choice", "the shell", required=True, positional=True, choices=SHELLS),),
        changes=False,
    ),
    Command("man", "Show the manual page of cservice; where it is not a terminal: print it.", _nothing, changes=False),
)
"""The definitions of these commands, which exist on the command line only."""


def find(name: str) -> click.Command | None:
    """Return the click command of that name, or None."""
    return MAKERS[name]() if name in MAKERS else None


def _completion() -> click.Command:
    def run(shell: str) -> int:
        from .shells import script  # noqa: PLC0415

        out(script(shell).rstrip("\n"))
        return 0

    argument = click.Argument(["shell"], type=click.Choice(SHELLS))
    return click.Command("completion", params=[argument], callback=run, help=LOCAL[0].doc, context_settings=HELP)


def _man() -> click.Command:
    def run() -> int:
        from .manpage import page  # noqa: PLC0415

        text = page()
        viewer = shutil.which("man")
        if sys.stdout.isatty() and viewer is not None:
            return subprocess.run([viewer, "-l", "-"], input=text.encode(), check=False).returncode
        out(text.rstrip("\n"))
        return 0

    return click.Command("man", params=[], callback=run, help=LOCAL[1].doc, context_settings=HELP)


HELP = {"help_option_names": ["-h", "--help"]}
MAKERS: dict[str, Callable[[], click.Command]] = {"completion": _completion, "man": _man}


def words(argv: Sequence[str]) -> int:
    """Answer ``completion --words SHELL LINE`` for a shell. Ignores malformed arguments."""
    from .cli import from_environment, global_options  # noqa: PLC0415
    from .shells import answer  # noqa: PLC0415

    if len(argv) == 4:
        sys.stdout.write(answer(argv[2], argv[3], from_environment(), global_options()))
        sys.stdout.flush()
    return os.EX_OK
