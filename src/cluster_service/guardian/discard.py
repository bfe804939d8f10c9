"""Empties the workers' pipes while no log writer does, so that a worker never waits for a reader that is gone.

What is read is thrown away and its lines are counted for each worker, until a writer can report them. The work is
bounded: ``READS`` reads a round, one pipe after the other.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .logsources import Source

INTERVAL = 0.1
"""Seconds between two rounds."""
READS = 128
CHUNK = 64 * 1024
"""Bytes of one read: the capacity of a pipe, see pipe(7)."""
LABELS_LIMIT = 1000


class Discarder:
    """*on_end* is called with a source and the name of its pipe that has come to its end."""

    def __init__(self, on_end: Callable[[Source, str], None]) -> None:
        self._on_end = on_end
        self._lost: dict[str, int] = {}
        self._begin = 0

    def round(self, sources: Iterable[Source]) -> None:
        """Read from up to ``READS`` pipes, going on where the last round ended."""
        pipes = [(source, stream, pipe) for source in sources for stream, pipe in source.pipes.items()]
        begin = self._begin if self._begin < len(pipes) else 0
        for source, stream, pipe in pipes[begin : begin + READS]:
            try:
                data = os.read(pipe, CHUNK)
            except (BlockingIOError, InterruptedError):
                continue
            if not data:
                self._on_end(source, stream)
            elif source.label in self._lost or len(self._lost) < LABELS_LIMIT:
                self._lost[source.label] = self._lost.get(source.label, 0) + max(1, data.count(b"\n"))
        self._begin = begin + READS

    def report(self) -> list[str]:
        """Return a line about each worker that has lost output since the last report."""
        lost, self._lost = self._lost, {}
        return [f"{_lines(count)} of {label} lost: no log writer read them" for label, count in lost.items()]


def _lines(count: int) -> str:
    return "1 line" if count == 1 else f"{count} lines"
