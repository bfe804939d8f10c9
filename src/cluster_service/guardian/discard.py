"""Drain the workers' pipes while there is no log writer, so that no worker blocks on a full pipe.

The data is discarded, and its lines are counted per worker until a log writer can report them. The work is bounded:
``READS`` reads per round, over the pipes in turn. The helper makes the reads, since a process that keeps a pipe locked
blocks every read of it (``calls``). Such a pipe is skipped until the next report.
"""

from __future__ import annotations

import errno
import mmap
import os
from typing import TYPE_CHECKING, Any

from .apart import Result

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .helper import Answer, Helper
    from .logsources import Source

    Pipe = tuple[Source, str, int]

INTERVAL = 0.1
"""Seconds between two rounds."""
READS = 128
CHUNK = 64 * 1024
"""Size of one read in bytes: the capacity of a pipe, see pipe(7)."""
LABELS_LIMIT = 1000
READ_PIPES = "read_pipes"
"""Name of the helper's duty ``Discarder.read``."""
_ENDED = -1


class Discarder:
    """Reader that discards output. *on_end* is called with a source and the name of its pipe at end of file."""

    def __init__(self, on_end: Callable[[Source, str], None]) -> None:
        self._on_end = on_end
        self._lost: dict[str, int] = {}
        self._begin = 0
        self._is_reading = False
        self._locked: set[tuple[int, str]] = set()
        """Source number and name of each pipe whose read took too long."""
        self._position = mmap.mmap(-1, 1)
        """Index of the pipe that the helper is reading, in memory shared with it."""

    def round(self, sources: Iterable[Source], helper: Helper) -> None:
        """Read up to ``READS`` pipes, from where the last round stopped. Do nothing while that round is running."""
        if self._is_reading:
            return
        found = [(source, stream, pipe) for source in sources for stream, pipe in source.pipes.items()]
        pipes = [each for each in found if (each[0].number, each[1]) not in self._locked]
        begin = self._begin if self._begin < len(pipes) else 0
        batch = pipes[begin : begin + READS]
        self._begin = begin + READS
        if batch:
            self._is_reading = True
            helper.ask(READ_PIPES, {}, [pipe for _, _, pipe in batch], lambda answer: self._answered(batch, answer))

    def read(self, _values: dict[str, Any], pipes: list[int]) -> Result:
        """Read each of *pipes* once (a duty of the helper). Return the number of lines of each; ``_ENDED``: at EOF."""
        counts = []
        for position, pipe in enumerate(pipes):
            self.note(position)
            try:
                data = os.read(pipe, CHUNK)
            except (BlockingIOError, InterruptedError):
                counts.append(0)
            else:
                counts.append(max(1, data.count(b"\n")) if data else _ENDED)
        return Result({"counts": counts})

    def note(self, position: int) -> None:
        """Record for the guardian the index of the pipe that the helper is about to read."""
        self._position[0] = position

    def _answered(self, batch: list[Pipe], answer: Answer) -> None:
        self._is_reading = False
        if answer.error == errno.ETIMEDOUT:
            source, stream, _ = batch[self._position[0]]
            self._locked.add((source.number, stream))
        counts = answer.values.get("counts", ())
        for (source, stream, pipe), count in zip(batch, counts, strict=False):
            if count == _ENDED and source.pipes.get(stream) == pipe:
                self._on_end(source, stream)
            elif count > 0 and (source.label in self._lost or len(self._lost) < LABELS_LIMIT):
                self._lost[source.label] = self._lost.get(source.label, 0) + count

    def report(self) -> list[str]:
        """Return a log line for each worker that has lost output since the last report. Locked pipes are retried."""
        self._locked.clear()
        lost, self._lost = self._lost, {}
        return [f"{_lines(count)} of {label} lost: no log writer read them" for label, count in lost.items()]


def _lines(count: int) -> str:
    return "1 line" if count == 1 else f"{count} lines"
