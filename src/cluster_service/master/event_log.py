"""Events of a service as they leave the core: numbered, kept, written to the log, and passed to hooks and readers."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Any

from cluster_service.core.protocol import event_records
from cluster_service.core.readout.serializers import iso_timestamp
from cluster_service.core.rules.exit_causes import format_duration
from cluster_service.wire.framing import name_of

from .hooks import Published

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .hooks import Hooks

MAX_ADDRESS = 200
"""Maximum characters of an address in a line."""


def line(event: event_records.Event) -> str | None:
    """Return the log line of *event*, or None if it is not logged."""
    tell = _LINES.get(type(event))
    return tell(event) if tell is not None else None


def _exit(event: event_records.WorkerExit) -> str | None:
    who = f"{event.group}.{event.slot} (pid {event.pid})" if event.pid else f"{event.group}.{event.slot}"
    if event.reason != "failure":
        return f"{who} ended ({event.reason})"
    if event.repeated:
        times = event.repeated + 1
        often = f"{who} failed in the same way again ({times} times in a row)"
        return None if times & (times - 1) else often  # the 2nd, 4th, 8th ... time: the log folds repetitions already
    return f"{who} {event.detail}"


def _ready(event: event_records.WorkerReady) -> str:
    unheard = "; it neither reported that it is ready nor was seen to listen" if event.by == "alive" else ""
    after = f"{format_duration(event.after_s)} after its start{unheard}"
    return f"{event.group}.{event.slot} (pid {event.pid}) is serving, {after}"


def _hung(event: event_records.WorkerHung) -> str:
    who = f"{event.group}.{event.slot} (pid {event.pid}) {event.detail}"
    return "\n".join((f"{who}; what it was doing:", *event.stacks) if event.stacks else (who,))


def _master(event: event_records.MasterStart) -> str | None:
    if event.starts == 1:
        return None
    mode = " in safe mode (no hooks, no TCP door)" if event.safe else ""
    return f"master replaced{mode}: {event.adopted} workers go on"


def _end(event: event_records.OperationEnd) -> str:
    reason = f": {event.reason.splitlines()[0]}" if event.reason else ""  # the rest of its output is in the log already
    return f"{event.command} (operation {event.operation}): {event.state}{reason}"


_LINES: dict[type, Callable[..., str | None]] = {
    event_records.WorkerReady: _ready,
    event_records.WorkerExit: _exit,
    event_records.WorkerKill: lambda e: (
        f"{e.group}.{e.slot} (pid {e.pid}) was killed: it had not ended in its time ({e.reason})"
    ),
    event_records.WorkerHung: _hung,
    event_records.WorkerRecycle: lambda e: f"{e.group}.{e.slot} (pid {e.pid}) is recycled: {e.detail}",
    event_records.SlotBroken: lambda e: (
        f"{e.group}.{e.slot} is broken: it is tried at a slow pace now (see: cservice health)"
    ),
    event_records.SlotRecovered: lambda e: f"{e.group}.{e.slot} has recovered",
    event_records.PortOpen: lambda e: f"listening on {printable(e.address, MAX_ADDRESS)}",
    event_records.PortClosed: lambda e: f"no longer listening on {printable(e.address, MAX_ADDRESS)}: nobody uses it",
    event_records.OperationStart: lambda e: f"{e.command} (operation {e.operation})",
    event_records.OperationEnd: _end,
    event_records.MasterStart: _master,
}


HISTORY = 1000
"""Number of events kept for streams that resume."""


class Publisher:
    """The events of the service *name*."""

    def __init__(self, name: str, hooks: Hooks, log: Callable[[str], None]) -> None:
        self._name = name
        self._hooks = hooks
        self._log = log
        self.last = 0
        """The last number assigned."""
        self.history: deque[Published] = deque(maxlen=HISTORY)

    def number(self, count: int) -> Iterator[int]:
        """Return the numbers of the next *count* events."""
        first, self.last = self.last + 1, self.last + count
        return iter(range(first, self.last + 1))

    def publish(self, number: int, event: event_records.Event) -> None:
        """Publish an event of the core."""
        self.tell(number, name_of(type(event)), dict(vars(event)), line(event))

    def tell(self, number: int, name: str, fields: dict[str, Any], line: str | None) -> None:
        """Publish an event. *line*: its line in the log, or None if it is not logged."""
        told = Published(number, iso_timestamp(time.time()), self._name, name, fields)
        self.history.append(told)
        if line is not None:
            self._log(line)
        self._hooks.fire(told)


def printable(text: str, limit: int) -> str:
    """Return at most *limit* characters of *text*, with control characters and lone surrogates escaped.

    A tab is kept. Invisible characters that reorder others (bidirectional controls) are escaped too.
    """
    text = text if len(text) <= limit else text[:limit] + " …"
    return text if text.isprintable() else "".join(map(_escaped, text))


def _escaped(character: str) -> str:
    if character.isprintable() or character == "\t":
        return character
    return character.encode("unicode_escape").decode("ascii")
