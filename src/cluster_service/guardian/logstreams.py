"""What the log writer knows of a worker whose pipes it reads."""

from __future__ import annotations

import re
from collections import deque

from . import logtext

LONGEST_LINE = 64 * 1024
TAIL_LINES, TAIL_CHARACTERS = 20, 500
_DIGITS = re.compile(rb"0x[0-9a-f]+|\d+")


class Stream:
    """The read end of one pipe of a worker."""

    def __init__(self, source: Source, name: str, descriptor: int) -> None:
        self.source = source
        self.name = name
        self.descriptor = descriptor
        self.partial = b""

    def lines(self, data: bytes) -> list[bytes]:
        """Return the lines that *data* completes."""
        text = self.partial + data
        *lines, rest = text.split(b"\n")
        while len(rest) > LONGEST_LINE:
            cut = logtext.boundary(rest, LONGEST_LINE)
            lines.append(rest[:cut])
            rest = rest[cut:]
        self.partial = rest
        return lines if logtext.is_plain(text) else [logtext.clean(line) for line in lines]

    def rest(self) -> list[bytes]:
        """Return what there is of a line that will not be completed."""
        rest, self.partial = self.partial, b""
        return [logtext.clean(rest)] if rest else []


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
