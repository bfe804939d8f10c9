"""The console: reads one command per line, from a terminal or from a pipe, until the end of the input.

``quit``, ``exit`` (alone) and the end of the input leave the console only; ``exit now`` is a command of the service.
Empty lines and lines that begin with ``#`` are skipped. A failed command is reported, and the console continues; its
exit code is that of the last command that failed.

``prompt``      for a terminal: line editing, history, completion, help. The only module that imports prompt_toolkit
``screen``      output that arrives while a line is being typed or a command shows its progress
``foreground``  the console on the terminal of a service: who uses the terminal, and where the service writes
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cluster_service.cli.output import INTERRUPTED, out, say
from cluster_service.commands import arguments
from cluster_service.errors import CommandError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from cluster_service.cli.session import Session

LEAVE = (["quit"], ["exit"])


@dataclass
class Outcome:
    """The result of a console."""

    given: int = 0
    """The number of commands given."""
    code: int = 0
    """The exit code of the last command that failed, else 0."""
    ended: bool = False
    """The last command ended the service."""


def run(session: Session, *, greeted: bool = False) -> Outcome:
    """Read and run commands until the input ends. *greeted*: a greeting was already shown."""
    terminal = sys.stdin is not None and sys.stdin.isatty()
    session = replace(session, compact=True)
    if not terminal:
        return obey(session, sys.stdin or (), terminal=False)
    if not greeted:
        out(f"Console of service {session.name!r}. help lists the commands; quit leaves, the service stays.")
    if not sys.stdout.isatty() or os.environ.get("TERM") in (None, "", "dumb"):
        return obey(session, _typed(session), terminal=True)
    from .prompt import Prompt  # prompt_toolkit is slow to import: only for a terminal

    with Prompt(session) as prompt:
        return obey(session, prompt.lines(), terminal=True)


def obey(session: Session, lines: Iterable[str], *, terminal: bool) -> Outcome:
    """Run the commands in *lines*. *terminal*: Ctrl-C interrupts only the current command."""
    outcome = Outcome()
    for line in lines:
        words = _words(session, line, outcome)
        if words in LEAVE:
            break
        if not words:
            continue
        outcome.given += 1
        code = _give(session, words) if terminal else session.line(words)
        outcome.code = code or outcome.code
        if code == 0 and words[:2] in (["shutdown", "all"], ["exit", "now"]) and "--no-wait" not in words:
            outcome.ended = True
            break
        if code == INTERRUPTED and not terminal:
            break
    return outcome


def _give(session: Session, words: list[str]) -> int:
    try:
        return session.line(words)
    except KeyboardInterrupt:  # only commands that read do not handle it themselves
        say("")
        return INTERRUPTED


def _words(session: Session, line: str, outcome: Outcome) -> list[str]:
    try:
        words = [] if line.lstrip().startswith("#") else arguments.split(line)
    except CommandError as error:
        outcome.given += 1
        outcome.code = session.failed(error)
        return []
    return [] if words and words[0].startswith("#") else words


def _typed(session: Session) -> Iterator[str]:
    """Yield the lines typed at a terminal without line control, or whose output is redirected."""
    import readline  # noqa: F401 - gives input() its line editing

    while True:
        try:
            yield input(f"{session.name}> ")
        except EOFError:
            out("")
            return
        except KeyboardInterrupt:
            say("")
