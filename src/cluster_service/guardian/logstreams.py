"""State of the log writer for each worker whose pipes it reads."""

from __future__ import annotations

import re
from collections import deque

from . import logtext
from .logsources import TAIL_LINES

LONGEST_LINE = 64 * 1024
SILENCE_SECONDS = 1.0
"""Seconds of silence in the middle of a line after which the incomplete part is written as a line of its own."""
_DIGITS = re.compile(rb"0x[0-9a-f]+|\d+")


class Stream:
    """The read end of one pipe of a worker."""

    def __init__(self, source: Source, name: str, descriptor: int) -> None:
        self.source = source
        self.name = name
        self.descriptor = descriptor
        self.partial = b""
        self.shown = False
        """Whether the beginning of the incomplete line has already been written."""
        self.stalls = False
        """Whether a read has taken too long."""

    def lines(self, data: bytes) -> list[bytes]:
        """Return the lines that *data* completes."""
        text = self._redrawn(data)
        *lines, rest = text.split(b"\n")
        if lines and self.shown:
            self.shown = False
            lines = lines[not lines[0].strip(b"\r") :]  # skip the end of a line that has already been written
        while len(rest) > LONGEST_LINE:
            cut = logtext.boundary(rest, LONGEST_LINE)
            lines.append(rest[:cut])
            rest = rest[cut:]
        self.partial = rest
        return lines if logtext.is_plain(text) else [logtext.clean(line) for line in lines]

    def _redrawn(self, data: bytes) -> bytes:
        """Return *data* appended to its incomplete line, unless it redraws that line, as a progress bar does.

        Data written in one piece stays whole, so that a carriage return within a text hides none of it.
        """
        new = data.lstrip(b"\r")
        redraws = (data.startswith(b"\r") and (self.partial or self.shown)) or self.partial.endswith(b"\r")
        if redraws and new and not new.startswith(b"\n"):
            return new
        return self.partial + data

    def pause(self) -> list[bytes]:
        """Return the incomplete line, which is not continued for now; for a progress bar, its last state."""
        state = next((state for state in reversed(self.partial.split(b"\r")) if state), b"")
        if not state:
            return []
        self.partial, self.shown = b"", True
        return [logtext.clean(state)]

    def rest(self) -> list[bytes]:
        """Return the incomplete line, which will not be completed."""
        rest, self.partial = self.partial, b""
        return [logtext.clean(rest)] if rest else []


class Unfinished:
    """The streams in the middle of a line, and when they were last read (monotonic seconds)."""

    def __init__(self) -> None:
        self._since: dict[int, tuple[Stream, float]] = {}

    def note(self, stream: Stream, now: float) -> None:
        """Record that *stream* has been read."""
        if stream.partial:
            self._since[stream.descriptor] = stream, now
        else:
            self._since.pop(stream.descriptor, None)

    def forget(self, stream: Stream) -> None:
        """Forget *stream*, which was closed or whose incomplete line was written."""
        self._since.pop(stream.descriptor, None)

    def deadlines(self) -> list[tuple[Stream, float]]:
        """Return each stream, and when it will have been silent for long enough."""
        return [(stream, since + SILENCE_SECONDS) for stream, since in self._since.values()]


class Source:
    """One worker or master."""

    def __init__(self, label: str, hold_until: float) -> None:
        self.label = label
        self.streams: dict[str, Stream] = {}
        self.tail: deque[bytes] = deque(maxlen=TAIL_LINES)
        self.exited = False
        self.hold_until = hold_until
        self.held: list[tuple[str, bytes, bytes]] | None = []
        """(stream, line, line with prefix), while lines are held back."""
        self.held_size = 0

    @property
    def group(self) -> str:
        """The common part of the labels of a group: ``web.1`` -> ``web.``."""
        head, dot, _ = self.label.rpartition(".")
        return head + dot

    def signature(self) -> list[tuple[str, bytes]]:
        """Return the held lines, digits masked."""
        return sorted((stream, _DIGITS.sub(b"#", line)) for stream, line, _ in self.held or ())
