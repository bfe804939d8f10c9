"""``events --follow`` and ``logs --follow``, which do not end and exist only on the command line."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from . import render
from .errors import CommandError
from .feed import feed
from .json_text import encode_for_terminal
from .session import INTERRUPTED, out

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .client import Client
    from .session import Session


def _events(session: Session, client: Client, given: Mapping[str, Any]) -> int:
    """Print the latest events, then new ones as they occur; with ``--json`` one document per line."""
    latest = client.give("events", dict(given))["events"]
    try:
        for event in latest:
            _print(session, event)
        for event in feed(client, latest[-1]["id"] if latest else None):
            _print(session, event)
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


def _print(session: Session, event: Mapping[str, Any]) -> None:
    out(encode_for_terminal(event) if session.as_json else render.event(event))


def _logs(session: Session, client: Client, given: Mapping[str, Any]) -> int:
    """Replace this process by ``tail -F``, which follows a file across its rotation. Raises CommandError."""
    del session
    file = client.give("logs", {**given, "lines": 1})["file"]
    if not os.access(file, os.R_OK):
        hint = "logs without --follow asks the service."
        raise CommandError("failed", f"the log file {file} cannot be read here", hint)
    os.execvp("tail", ["tail", "-n", str(given.get("lines", 100)), "-F", file])  # noqa: S606


FOLLOWED: dict[str, Callable[[Session, Client, Mapping[str, Any]], int]] = {"events": _events, "logs": _logs}
