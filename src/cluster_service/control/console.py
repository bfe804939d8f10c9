"""The console: commands a line each, from a terminal or from whatever is piped in, until its end.

``quit``, ``exit`` (alone) and the end of the input leave the console and nothing else; ``exit now`` is a command of
the service. Lines that are empty or begin with ``#`` are skipped. A command that fails is told and the next is read;
the exit code is that of the last command that failed.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from . import arguments
from .errors import CommandError
from .session import INTERRUPTED, Session, out, say

if TYPE_CHECKING:
    from collections.abc import Iterator

LEAVE = (["quit"], ["exit"])


@dataclass
class Outcome:
    """How a console ended."""

    given: int = 0
    """Commands that were given."""
    code: int = 0
    """The exit code of the last one that failed, else 0."""


def run(session: Session, greeting: str = "") -> Outcome:
    """Read and give commands until the input ends."""
    terminal = sys.stdin is not None and sys.stdin.isatty()
    session = replace(session, compact=True)
    if terminal:
        out(
            greeting or f"Console of service {session.name!r}. help lists the commands; quit leaves, the service stays."
        )
    outcome = Outcome()
    for line in _lines(session, terminal=terminal):
        words = _words(session, line, outcome)
        if words in LEAVE:
            break
        if not words or words[0].startswith("#"):
            continue
        outcome.given += 1
        code = session.line(words)
        outcome.code = code or outcome.code
        if code == 0 and words[:2] in (["shutdown", "all"], ["exit", "now"]) and "--no-wait" not in words:
            break  # the service has ended
        if code == INTERRUPTED and not terminal:
            break
    return outcome


def _words(session: Session, line: str, outcome: Outcome) -> list[str]:
    try:
        return [] if line.lstrip().startswith("#") else arguments.split(line)
    except CommandError as error:
        outcome.given += 1
        outcome.code = session.failed(error)
        return []


def _lines(session: Session, *, terminal: bool) -> Iterator[str]:
    if not terminal:
        yield from sys.stdin or ()
        return
    import readline  # noqa: F401, PLC0415 - gives input() its line editing

    while True:
        try:
            yield input(f"{session.name}> ")
        except EOFError:
            out("")
            return
        except KeyboardInterrupt:
            say("")
