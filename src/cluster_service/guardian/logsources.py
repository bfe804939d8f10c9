"""Per-source state of the log client (a worker or a master), and the messages to be sent to the log writer.

Nothing here grows over time: what a writer must know about a source is state, which is sent again to the next writer,
so at most four messages per source are pending. The service's own lines are queued in ``Lines``, which is bounded.
"""

from __future__ import annotations

import json
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

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
