"""The log: one line per event.

Repetitions are short: the cause of a failure is logged in full the first time and then only counted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cluster_service.core import events
from cluster_service.core.exit_causes import seconds

from .untrusted import printable

if TYPE_CHECKING:
    from collections.abc import Callable


MAX_ADDRESS = 200
"""Maximum characters of an address in a line."""


def line(event: events.Event) -> str | None:
    """Return the log line of *event*, or None if it is not logged."""
    tell = _LINES.get(type(event))
    return tell(event) if tell is not None else None


def _exit(event: events.WorkerExit) -> str | None:
    who = f"{event.group}.{event.slot} (pid {event.pid})" if event.pid else f"{event.group}.{event.slot}"
    if event.reason != "failure":
        return f"{who} ended ({event.reason})"
    if event.repeated:
        times = event.repeated + 1
        often = f"{who} failed in the same way again ({times} times in a row)"
        return None if times & (times - 1) else often  # the 2nd, 4th, 8th ... time: the log folds repetitions already
    return f"{who} {event.detail}"


def _ready(event: events.WorkerReady) -> str:
    unheard = "; it neither reported that it is ready nor was seen to listen" if event.by == "alive" else ""
    return f"{event.group}.{event.slot} (pid {event.pid}) is serving, {seconds(event.after_s)} after its start{unheard}"


def _hung(event: events.WorkerHung) -> str:
    who = f"{event.group}.{event.slot} (pid {event.pid}) {event.detail}"
    return "\n".join((f"{who}; what it was doing:", *event.stacks) if event.stacks else (who,))


def _master(event: events.MasterStart) -> str | None:
    if event.starts == 1:
        return None
    mode = " in safe mode (no hooks, no TCP door)" if event.safe else ""
    return f"master replaced{mode}: {event.adopted} workers go on"


def _end(event: events.OperationEnd) -> str:
    reason = f": {event.reason.splitlines()[0]}" if event.reason else ""  # the rest of its output is in the log already
    return f"{event.command} (operation {event.operation}): {event.state}{reason}"


_LINES: dict[type, Callable[..., str | None]] = {
    events.WorkerReady: _ready,
    events.WorkerExit: _exit,
    events.WorkerKill: lambda e: (
        f"{e.group}.{e.slot} (pid {e.pid}) was killed: it had not ended in its time ({e.reason})"
    ),
    events.WorkerHung: _hung,
    events.WorkerRecycle: lambda e: f"{e.group}.{e.slot} (pid {e.pid}) is recycled: {e.detail}",
    events.SlotBroken: lambda e: f"{e.group}.{e.slot} is broken: it is tried at a slow pace now (see: cservice health)",
    events.SlotRecovered: lambda e: f"{e.group}.{e.slot} has recovered",
    events.PortOpen: lambda e: f"listening on {printable(e.address, MAX_ADDRESS)}",
    events.PortClosed: lambda e: f"no longer listening on {printable(e.address, MAX_ADDRESS)}: nobody uses it",
    events.OperationStart: lambda e: f"{e.command} (operation {e.operation})",
    events.OperationEnd: _end,
    events.MasterStart: _master,
}
