"""What ``cservice`` follows until it ends: events, log lines, and the progress of an operation on a terminal."""

from __future__ import annotations

import math
import os
import sys
import time
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from cluster_service.client.client import feed
from cluster_service.commands.json_text import encode_for_terminal
from cluster_service.errors import CommandError

from . import rendering
from .output import ABOVE, INTERRUPTED, out

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from cluster_service.client.client import Client


def _events(client: Client, given: Mapping[str, Any], *, as_json: bool) -> int:
    """Print the latest events, then new ones as they occur; with ``--json`` one document per line."""
    latest = client.give("events", dict(given))["events"]
    try:
        for event in latest:
            _print(event, as_json=as_json)
        for event in feed(client, latest[-1]["id"] if latest else None):
            _print(event, as_json=as_json)
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


def _print(event: Mapping[str, Any], *, as_json: bool) -> None:
    out(encode_for_terminal(event) if as_json else rendering.event(event))


def _logs(client: Client, given: Mapping[str, Any], *, as_json: bool) -> int:
    """Replace this process by ``tail -F``, which follows a file across its rotation. Raises CommandError."""
    del as_json
    file = client.give("logs", {**given, "lines": 1})["file"]
    if not os.access(file, os.R_OK):
        hint = "logs without --follow asks the service."
        raise CommandError("failed", f"the log file {file} cannot be read here", hint)
    os.execvp("tail", ["tail", "-n", str(given.get("lines", 100)), "-F", file])


FOLLOWED: dict[str, Callable[..., int]] = {"events": _events, "logs": _logs}


STAGES = {
    "check": "looking whether the code can run",
    "dark": "trying it on a worker that no client reaches",
    "canary": "one new worker beside the old ones",
    "roll": "replacing the others",
    "bake": "watching the new workers",
    "undo": "putting the old release back",
}
"""A short description of each stage of an upgrade."""

PATIENCE = 2.0
"""Seconds after which the duration of a stage is shown, unless a countdown is."""


def headline(operation: Mapping[str, Any], lasted: float) -> str:
    """Return the stage and the command; the command is last, because its path may be long.

    *lasted*: observed duration of the stage in seconds.
    """
    stage = operation.get("stage")
    command = rendering.clean(operation["command"])
    counted = operation.get("monitor_left_s") is not None
    patience = f", for {_whole(lasted)}" if lasted >= PATIENCE and not counted else ""
    if not stage:
        return command + patience
    known = STAGES.get(stage)
    return rendering.clean(stage) + (f": {known}" if known else "") + f"{patience} · {command}"


def _whole(seconds: float) -> str:
    return f"{int(seconds)} s" if seconds < 60 else rendering.span(seconds)


def counts(operation: Mapping[str, Any]) -> str:
    """Return the known figures of the progress."""
    said = [f"{operation['replaced']} of {operation['of']}"] if operation.get("of") else []
    workers = operation.get("workers")
    if workers:
        said.append(f"workers: {workers['old']} old, {workers['new']} new")
    left = operation.get("monitor_left_s")
    if left is not None:
        said.append(f"{math.ceil(left)} s left to watch")
    return " · ".join(said)


class Progress:
    """The display of one operation; use it in a ``with`` block, which erases the two lines at its end."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Set up the display. *clock*: monotonic seconds."""
        self._clock = clock
        self._console = Console(file=sys.stdout, highlight=False, emoji=False, markup=False)
        self._live = Live(console=self._console, auto_refresh=False, transient=True, redirect_stdout=False,
                          redirect_stderr=False)  # fmt: skip
        self._stage: object = None
        self._since = clock()

    def __enter__(self) -> Self:
        """Start the display. The cursor stays visible, in case a signal ends this program."""
        self._live.start()
        self._console.show_cursor(show=True)
        ABOVE.append(self.above)
        return self

    def __exit__(self, *_: object) -> None:
        """Erase the redrawn lines."""
        ABOVE.remove(self.above)
        self._live.update("")
        self._live.stop()

    def step(self, text: str) -> None:
        """Print a step above; *text* must be free of control characters."""
        self._console.print(Text(text), soft_wrap=True)

    def above(self, text: str) -> None:
        """Print unrelated lines above the operation, with their colours. Thread-safe."""
        self._console.print(Text.from_ansi(text), soft_wrap=True)

    def news(self, operation: Mapping[str, Any]) -> None:
        """Draw the state of the operation."""
        now = self._clock()
        if operation.get("stage") != self._stage:
            self._stage, self._since = operation.get("stage"), now
        self._live.update(self._drawn(operation, now - self._since), refresh=True)

    def _drawn(self, operation: Mapping[str, Any], lasted: float) -> Group:
        undoing = operation.get("stage") == "undo"
        style = "yellow" if undoing else "cyan"
        head = Text(headline(operation, lasted), style=style, no_wrap=True, overflow="ellipsis")
        figures = Text(counts(operation), no_wrap=True, overflow="ellipsis")
        if not operation.get("of"):
            return Group(head, figures) if figures else Group(head)
        line = Table.grid(padding=(0, 2, 0, 0))
        line.add_column()
        line.add_column(no_wrap=True, overflow="ellipsis")
        width = max(8, min(28, self._console.width // 4))
        bar = ProgressBar(operation["of"], operation["replaced"], width=width, complete_style=style,
                          finished_style=style)  # fmt: skip
        line.add_row(bar, figures)
        return Group(head, line)
