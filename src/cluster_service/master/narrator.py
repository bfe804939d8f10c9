"""The log: one line per event.

Repetitions are short: the cause of a failure is logged in full the first time and then only counted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cluster_service.core.protocol import event_records
from cluster_service.core.rules.exit_causes import format_duration

from .untrusted import printable

if TYPE_CHECKING:
    from collections.abc import Callable


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
