"""How a long command is shown on a terminal while it runs: its steps as they come, and below them two lines that
change.

    web.1 (pid 4811) is serving
    roll: replacing the others, for 3 s · upgrade all /srv/v2/worker.py
    ━━━━━━━━━╸━━━━━━━━━━━━━━  1 of 4 · workers: 3 old, 1 new · 7 s left to watch

The steps stay on the screen, so what led to a failure can be read afterwards; the two lines are wiped away at the end.
Nothing is drawn but when there is news of the operation, once a second at least: no thread, and no clock but the
caller's. This module brings rich with it and is imported on a terminal only.
"""

from __future__ import annotations

import math
import sys
import time
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from . import render
from .session import ABOVE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

STAGES = {
    "check": "looking whether the code can run",
    "dark": "trying it on a worker that no client reaches",
    "canary": "one new worker beside the old ones",
    "roll": "replacing the others",
    "bake": "watching the new workers",
    "undo": "putting the old release back",
}
"""What happens in each stage of an upgrade, in a few words."""

PATIENCE = 2.0
"""Seconds of a stage before it is said for how long it has lasted; where time is counted down it is not."""


def headline(operation: Mapping[str, Any], lasted: float) -> str:
    """Return what is being done; the command last, for its target's path may be long. *lasted*: seconds of this stage
    that were seen.
    """
    stage = operation.get("stage")
    command = render.clean(operation["command"])
    counted = operation.get("monitor_left_s") is not None
    patience = f", for {_whole(lasted)}" if lasted >= PATIENCE and not counted else ""
    if not stage:
        return command + patience
    known = STAGES.get(stage)
    return render.clean(stage) + (f": {known}" if known else "") + f"{patience} · {command}"


def _whole(seconds: float) -> str:
    return f"{int(seconds)} s" if seconds < 60 else render.span(seconds)


def counts(operation: Mapping[str, Any]) -> str:
    """Return how far it is, in figures: what is known of them."""
    said = [f"{operation['replaced']} of {operation['of']}"] if operation.get("of") else []
    workers = operation.get("workers")
    if workers:
        said.append(f"workers: {workers['old']} old, {workers['new']} new")
    left = operation.get("monitor_left_s")
    if left is not None:
        said.append(f"{math.ceil(left)} s left to watch")
    return " · ".join(said)


class Progress:
    """The display of one operation, for a ``with`` block. Whatever ends the block, the two lines are wiped away."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """*clock*: monotonic seconds."""
        self._clock = clock
        self._console = Console(file=sys.stdout, highlight=False, emoji=False, markup=False)
        self._live = Live(console=self._console, auto_refresh=False, transient=True, redirect_stdout=False,
                          redirect_stderr=False)  # fmt: skip
        self._stage: object = None
        self._since = clock()

    def __enter__(self) -> Self:
        """Begin. The cursor stays: whoever stops this program by a signal has it back."""
        self._live.start()
        self._console.show_cursor(show=True)
        ABOVE.append(self.above)
        return self

    def __exit__(self, *_: object) -> None:
        """Wipe the changing lines away."""
        ABOVE.remove(self.above)
        self._live.update("")
        self._live.stop()

    def step(self, text: str) -> None:
        """Show a step, above; *text* is clean."""
        self._console.print(Text(text), soft_wrap=True)

    def above(self, text: str) -> None:
        """Show lines that have nothing to do with the operation, above it, with their colours. From any thread."""
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
