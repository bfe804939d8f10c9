"""What the log writer knows of a worker whose pipes it reads."""

from __future__ import annotations

import re
from collections import deque

from . import logtext

LONGEST_LINE = 64 * 1024
SILENCE_SECONDS = 1.0
"""How long a stream must be silent in the middle of a line until that part is written as a line of its own."""
TAIL_LINES, TAIL_CHARACTERS = 40, 500
_DIGITS = re.compile(rb"0x[0-9a-f]+|\d+")


class Stream:
    """The read end of one pipe of a worker."""

    def __init__(self, source: Source, name: str, descriptor: int) -> None:
        self.source = source
        self.name = name
        self.descriptor = descriptor
        self.partial = b""
        self.shown = False
        """The beginning of the line that is not complete has been written already."""
        self.stalls = False
        """A read of it has taken too long."""

    def lines(self, data: bytes) -> list[bytes]:
        """Return the lines that *data* completes."""
        text = self._redrawn(data)
        *lines, rest = text.split(b"\n")
        if lines and self.shown:
            self.shown = False
            lines = lines[not lines[0].strip(b"\r") :]  # nothing but the end of a line that is there
        while len(rest) > LONGEST_LINE:
            cut = logtext.boundary(rest, LONGEST_LINE)
            lines.append(rest[:cut])
            rest = rest[cut:]
        self.partial = rest
        return lines if logtext.is_plain(text) else [logtext.clean(line) for line in lines]

    def _redrawn(self, data: bytes) -> bytes:
        """Return *data* behind what there is of its line, unless it draws that anew: a progress bar.

        What was written in one piece stays whole, so that a carriage return in a text hides nothing of it.
        """
        new = data.lstrip(b"\r")
        redraws = (data.startswith(b"\r") and (self.partial or self.shown)) or self.partial.endswith(b"\r")
        if redraws and new and not new.startswith(b"\n"):
            return new
        return self.partial + data

    def pause(self) -> list[bytes]:
        """Return what there is of a line, since it is not continued for now: of a progress bar its last state."""
        state = next((state for state in reversed(self.partial.split(b"\r")) if state), b"")
        if not state:
            return []
        self.partial, self.shown = b"", True
        return [logtext.clean(state)]

    def rest(self) -> list[bytes]:
        """Return what there is of a line that will not be completed."""
        rest, self.partial = self.partial, b""
        return [logtext.clean(rest)] if rest else []


class Unfinished:
    """The streams that are in the middle of a line, and since when they have been silent (monotonic seconds)."""

    def __init__(self) -> None:
        self._since: dict[int, tuple[Stream, float]] = {}

    def note(self, stream: Stream, now: float) -> None:
        """Take up that *stream* has been read."""
        if stream.partial:
            self._since[stream.descriptor] = stream, now
        else:
            self._since.pop(stream.descriptor, None)

    def forget(self, stream: Stream) -> None:
        """*stream* is closed, or was shown as it is."""
        self._since.pop(stream.descriptor, None)

    def deadlines(self) -> list[tuple[Stream, float]]:
        """Return each stream, and when it has been silent for long enough."""
        return [(stream, since + SILENCE_SECONDS) for stream, since in self._since.values()]


class Source:
    """One worker (or the master)."""

    def __init__(self, label: str, hold_until: float) -> None:
        self.label = label
        self.streams: dict[str, Stream] = {}
        self.tail: deque[bytes] = deque(maxlen=TAIL_LINES)
        self.exited = False
        self.hold_until = hold_until
        self.held: list[tuple[str, bytes, bytes]] | None = []
        """(stream, line, line as it will be written), while lines are held back."""
        self.held_size = 0

    @property
    def group(self) -> str:
        """What workers of one group have in common: ``web.1`` -> ``web.``."""
        head, dot, _ = self.label.rpartition(".")
        return head + dot

    def signature(self) -> list[tuple[str, bytes]]:
        """Return the held lines, digits masked."""
        return sorted((stream, _DIGITS.sub(b"#", line)) for stream, line, _ in self.held or ())
