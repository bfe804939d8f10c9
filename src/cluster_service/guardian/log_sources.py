"""Sources of output as the guardian knows them, and their output while no log writer reads it."""

from __future__ import annotations

import errno
import fcntl
import json
import mmap
import os
from array import array
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from .forked_child import Result

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterable

    from .helper_client import Answer, Helper

    Pipe = tuple["Source", str, int]

TAIL_LINES, TAIL_CHARACTERS = 40, 500
"""Maximum number of a source's last lines that the log writer reports, and their length."""
ANSWER_BYTES = 64 * 1024
"""Maximum size of a message from the log writer. The largest are tails; the writer drops their first lines."""
LINE_CHARACTERS = 8 * 1024
"""Maximum characters per message; a longer line is sent in pieces.

As JSON, a character takes at most six bytes, or twelve outside the Basic Multilingual Plane: a message must fit into
the socket's buffer (net.core.wmem_default, 208 KiB).
"""
LINES_LIMIT = 1000
LINES_BYTES = 1024 * 1024


class Source:
    """One worker (number > 0) or master (< 0), the read ends of its pipes, and its unsent messages."""

    def __init__(self, number: int, label: str, out: int, err: int) -> None:
        self.number = number
        self.label = label
        self.pipes = {"out": out, "err": err}
        self.released = False
        self.failed: bool | None = None
        """None while it lives; afterwards whether it failed."""
        self.tail_due: float | None = None
        self.tail_told = False
        self.unsent: list[str] = []
        """Names of streams, ``release``, ``exited``."""
        self.send_everything()

    def __repr__(self) -> str:
        return f"<Source {self.number} {self.label}: {', '.join(self.pipes)} open, {self.unsent} to be sent>"

    def send_everything(self) -> None:
        """Queue the complete state of this source for a new writer."""
        self.unsent = [*self.pipes, *self._state()]

    def send_pipe_again(self, stream: str) -> None:
        """Queue a pipe again that the writer did not receive."""
        if stream in self.pipes:
            self.unsent = [*(name for name in self.pipes if name in (*self.unsent, stream)), *self._state()]

    def forget_pipe(self, stream: str) -> int | None:
        """Return the descriptor of a pipe that has reached its end; the caller closes it."""
        self.unsent = [name for name in self.unsent if name != stream]
        return self.pipes.pop(stream, None)

    def next_message(self) -> tuple[dict[str, Any], int | None]:
        """Return the first message to be sent, and its descriptor."""
        name = self.unsent[0]
        if name in self.pipes:
            return {"do": "add", "source": self.number, "label": self.label, "stream": name}, self.pipes[name]
        if name == "release":
            return {"do": "release", "source": self.number}, None
        return {"do": "exited", "source": self.number, "failed": self.failed}, None

    def _state(self) -> list[str]:
        return [*(["release"] if self.released else []), *(["exited"] if self.failed is not None else [])]


class Lines:
    """Queue of the service's own lines for the writer. Beyond the limits the newest are dropped and counted."""

    def __init__(self) -> None:
        self._waiting: deque[bytes] = deque()
        self._size = 0
        self._dropped = 0

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, text: str, label: str) -> None:
        """Add one or more lines."""
        for begin in range(0, len(text) or 1, LINE_CHARACTERS):
            data = _line(text[begin : begin + LINE_CHARACTERS], label)
            if len(self._waiting) >= LINES_LIMIT or self._size + len(data) > LINES_BYTES:
                self._dropped += 1
                return
            self._append(data)

    def first(self) -> bytes:
        """Return the first message to be sent."""
        return self._waiting[0]

    def sent(self) -> None:
        """Remove the first message, which was sent. If lines were dropped, queue a notice after the last one."""
        self._size -= len(self._waiting.popleft())
        if self._dropped and not self._waiting:
            self._append(_line(f"{self._dropped} lines of the service were lost: the log writer did not read them"))
            self._dropped = 0

    def _append(self, data: bytes) -> None:
        self._waiting.append(data)
        self._size += len(data)


class Next(NamedTuple):
    """The next message to the writer, and the function to call once it has been sent."""

    data: bytes
    descriptors: list[int]
    sent: Callable[[], object]


class Outbox:
    """Everything to be sent to the writer."""

    def __init__(self) -> None:
        self.answered = False
        """Whether this writer has answered. Until then, only requests are sent."""
        self.lines = Lines()
        self._requests: dict[str, dict[str, Any]] = {}
        """Pending requests, at most one per kind; sent before anything else."""
        self._dropped: set[int] = set()
        self._sources: dict[int, Source] = {}
        """Sources with something to send, in order."""

    def __bool__(self) -> bool:
        return bool(self._requests or self._dropped or self._sources or self.lines)

    def restart(self, requests: Iterable[dict[str, Any]], sources: Iterable[Source]) -> None:
        """Prepare for a new writer: send *requests* now, and the state of *sources* once it has answered."""
        self.answered = False
        self._requests = {message["do"]: message for message in requests}
        self._dropped.clear()
        self._sources.clear()
        for source in sources:
            source.send_everything()
            self.add(source)

    def ask(self, name: str) -> None:
        """Queue the request ``{"do": name}``."""
        self._requests[name] = {"do": name}

    def add(self, source: Source) -> None:
        """Note that *source* has something to send."""
        self._sources[source.number] = source

    def drop(self, source: Source) -> None:
        """Have the writer close the pipes of *source*."""
        if self.answered:
            self._dropped.add(source.number)

    def forget(self, source: Source) -> None:
        """Send nothing more about *source*."""
        self._sources.pop(source.number, None)

    def first(self) -> Next | None:
        """Return the next message to send."""
        for name, request in self._requests.items():
            return Next(_encode(request), [], partial(self._requests.pop, name))
        if not self.answered:
            return None
        for number in self._dropped:
            return Next(_encode({"do": "drop", "source": number}), [], partial(self._dropped.discard, number))
        for source in list(self._sources.values()):
            if source.unsent:
                message, descriptor = source.next_message()
                descriptors = [] if descriptor is None else [descriptor]
                return Next(_encode(message), descriptors, partial(source.unsent.pop, 0))
            self.forget(source)
        return Next(self.lines.first(), [], self.lines.sent) if self.lines else None


def _line(text: str, label: str = "cservice") -> bytes:
    return _encode({"do": "line", "label": label, "text": text})


def _encode(message: dict[str, Any]) -> bytes:
    return json.dumps(message).encode()


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


HALF_FULL = "half_full"
"""The name of the helper's duty ``find_half_full``."""


class Left(NamedTuple):
    """The data that the writer has not read, and when it last answered."""

    lines: int
    """Lines of the service that were not sent."""
    output: int
    """Bytes in the pipes."""
    requests: int
    """Bytes in the socket, including the kernel's overhead."""
    heard: float

    def sentence(self) -> str:
        """Return what is lost if the writer reads no more; empty if nothing is."""
        parts = [
            f"{self.lines} lines of the service" if self.lines else "",
            f"{self.output} bytes of output" if self.output else "",
            "messages that it had not received" if self.requests else "",
        ]
        return " and ".join(part for part in parts if part)


class Unread:
    """Detects whether the unread data still changes."""

    def __init__(self) -> None:
        self._last: Left | None = None
        self._since = 0.0

    def changes(self, now_left: Left, now: float, patience: float) -> bool:
        """Return whether the data has changed within the last *patience* seconds, judged by all calls so far."""
        if now_left != self._last:
            self._last, self._since = now_left, now
        return now - self._since < patience


def left(lines: int, pipes: Iterable[int], sock: socket.socket | None, heard: float) -> Left:
    """Return the current data. *heard*: last answer of the writer. Only for pipes of processes that have ended."""
    import termios  # rarely needed, and saves the guardian memory

    requests = _count(sock.fileno(), termios.TIOCOUTQ) if sock is not None else 0  # unix(7): SIOCOUTQ
    return Left(lines, sum(_count(pipe, termios.FIONREAD) for pipe in pipes), requests, heard)


def find_half_full(_values: dict[str, Any], pipes: list[int]) -> Result:
    """Return whether one of *pipes* is at least half full: a duty of the helper."""
    return Result({"found": any(map(_is_half_full, pipes))})


def _is_half_full(pipe: int) -> bool:
    import termios

    try:
        return 2 * _count(pipe, termios.FIONREAD) >= fcntl.fcntl(pipe, fcntl.F_GETPIPE_SZ)
    except OSError:
        return False


def _count(descriptor: int, request: int) -> int:
    number = array("i", [0])
    try:
        fcntl.ioctl(descriptor, request, number)
    except OSError:
        return 0
    return number[0]
