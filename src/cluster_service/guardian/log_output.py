"""Streams and outputs of the log writer: text made safe for the log, one record per worker, and non-blocking writes."""

from __future__ import annotations

import os
import re
import select
import socket
import stat
from collections import deque
from typing import Any

from cluster_service.machine import shortage
from cluster_service.wire.validation import IN_CLASS

from .log_sources import TAIL_LINES

_PLAIN = bytes([9, 10, *range(32, 127)])
_RESET = "\x1b[0m"
_SGR = r"\x1b\[[0-9;:]{0,64}m"
_SPECIAL = re.compile(_SGR + "|[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029" + IN_CLASS + "]")
_COLOUR = re.compile(_SGR)


def is_plain(text: bytes) -> bool:
    """Return whether *text*, of one or more lines, is printable ASCII: ``clean`` would change nothing."""
    return not text.translate(None, _PLAIN)


def clean(line: bytes) -> bytes:
    """Return *line*, which has no newline, in a form that is safe for the log."""
    if is_plain(line):
        return line
    text = _SPECIAL.sub(_escape, line.removesuffix(b"\r").decode("utf-8", "backslashreplace"))
    if text.rfind("\x1b") > max(text.rfind(_RESET), text.rfind("\x1b[m")):
        text += _RESET
    return text.encode()


def without_colours(line: bytes, limit: int) -> str:
    """Return a clean line as text of at most *limit* characters without any escape sequence."""
    return _COLOUR.sub("", line.decode("utf-8", "ignore"))[:limit]


def boundary(line: bytes, limit: int) -> int:
    """Return where to cut *line*, at most *limit* bytes, without splitting a character."""
    for cut in range(limit, limit - 4, -1):
        if line[cut] & 0xC0 != 0x80:
            return cut
    return limit


def _escape(match: re.Match[str]) -> str:
    found = match[0]
    if len(found) > 1:
        return found
    code = ord(found)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


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
            cut = boundary(rest, LONGEST_LINE)
            lines.append(rest[:cut])
            rest = rest[cut:]
        self.partial = rest
        return lines if is_plain(text) else [clean(line) for line in lines]

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
        return [clean(state)]

    def rest(self) -> list[bytes]:
        """Return the incomplete line, which will not be completed."""
        rest, self.partial = self.partial, b""
        return [clean(rest)] if rest else []


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


CHUNK = 64 * 1024
_CAREFUL = 4096  # PIPE_BUF: a pipe that polls writable accepts this much without blocking


class Sink:
    """One output. It never blocks: data not yet accepted is queued (``size`` bytes)."""

    def __init__(self, descriptor: int) -> None:
        self._original = descriptor
        self._waiting: deque[bytes] = deque()
        self.size = 0
        self.stuck = False
        self._lost = 0
        self._why = ""
        self._midline = False
        mode = os.fstat(descriptor).st_mode
        self.file = stat.S_ISREG(mode)
        self.colour = (
            os.isatty(descriptor) and not os.environ.get("NO_COLOR") and os.environ.get("TERM", "dumb") != "dumb"
        )
        self.descriptor, self._write = self._writer(descriptor, mode)

    def _writer(self, descriptor: int, mode: int) -> tuple[int, Any]:
        """Return a non-blocking write function that does not set O_NONBLOCK on a shared open file description."""
        if self.file:
            return descriptor, os.write
        if stat.S_ISSOCK(mode):
            sock = socket.socket(fileno=os.dup(descriptor))
            return descriptor, lambda _descriptor, data: sock.send(data, socket.MSG_DONTWAIT)
        try:
            own = os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        except OSError:  # for example, another user's terminal
            return descriptor, self._write_carefully
        return own, os.write

    def _write_carefully(self, descriptor: int, data: bytes) -> int:
        poll = select.poll()
        poll.register(descriptor, select.POLLOUT)
        if not poll.poll(0):
            raise BlockingIOError
        return os.write(descriptor, data[:_CAREFUL])

    def has_grown(self, most: int) -> bool:
        """Return whether this is a file of at least *most* bytes; 0: unlimited."""
        return self.file and 0 < most <= os.fstat(self.descriptor).st_size

    def put(self, line: bytes) -> None:
        """Queue one or more lines; *line* ends in a newline."""
        self._waiting.append(line)
        self.size += len(line)

    def skip(self) -> None:
        """Count a line that is dropped because too much is pending."""
        self._lost += 1
        self._why = "the output was too slow"

    def flush(self) -> None:
        """Write queued data until the output accepts no more."""
        self.stuck = False
        while self._waiting:
            data = self._waiting[0] if len(self._waiting) == 1 else self._gather()
            if self._lost:
                data = self._confession() + data
            try:
                written = self._write(self.descriptor, data)
            except (BlockingIOError, InterruptedError):
                self.stuck = True
                return
            except OSError as error:
                self._lose(error)
                return
            self._wrote(data, written)

    def _gather(self) -> bytes:
        """Join the first queued lines, so that many short lines need a single system call."""
        pieces = []
        size = 0
        while self._waiting and size < CHUNK:
            pieces.append(self._waiting.popleft())
            size += len(pieces[-1])
        self._waiting.appendleft(b"".join(pieces))
        return self._waiting[0]

    def _wrote(self, data: bytes, written: int) -> None:
        self._lost = 0
        self._waiting.popleft()
        rest = data[written:]
        if rest:
            self._waiting.appendleft(rest)
        self.size = sum(map(len, self._waiting))
        self._midline = written > 0 and data[written - 1 : written] != b"\n"

    def _lose(self, error: OSError) -> None:
        self._lost += sum(piece.count(b"\n") for piece in self._waiting)
        self._why = shortage.explain(error)
        self._waiting.clear()
        self.size = 0

    def _confession(self) -> bytes:
        text = f"[cservice] {self._lost} lines before this one could not be written: {self._why}\n"
        return (b"\n" if self._midline else b"") + text.encode()

    def replaces(self, other: Sink) -> None:
        """Replace *other*, and report the lines lost there."""
        self._lost, self._why = other._lost, other._why

    def close(self) -> None:
        """Close the descriptor of a log file."""
        for descriptor in {self._original, self.descriptor}:
            os.close(descriptor)
