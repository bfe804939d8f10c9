"""Draining of workers whose program does not finish its requests when it receives its stop signal.

Before sending the stop signal, the guardian directs new connections to other workers (``slots``). It then waits until
the queue of the worker's socket is empty, connections being opened have arrived, and no connection is in the middle of
a request (``connections``), but no longer than the order allows. Meanwhile it closes idle connections of a program that
does not handle the signal. If no other worker accepts, as in a shutdown, the worker keeps accepting until no request is
in progress.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from .helper import Answer, Helper
    from .holdings import Holdings, Worker
    from .perslot import PerSlot
    from .watching import Loop

LOOK_SECONDS = 0.05
"""Seconds between two checks of a worker's connections; at least four times the duration of the last check."""
SETTLE_SECONDS, SETTLE_LIMIT = 0.3, 3.0
"""Seconds to wait for connections that were being opened at the pause: four round trips, within these bounds."""
QUEUE_SECONDS = 1.0
"""Seconds to wait for an empty queue if nothing else is awaited: the worker finishes its requests itself."""
EAGER_SECONDS = 2.0
"""Seconds after which busy clients are no longer awaited: connections end once a request has been answered."""

_QUIET: dict[bool, tuple[dict[str, float], dict[str, float]]] = {
    False: (
        {"fresh": 5.0, "answered": 0.5, "stream": 2.0, "unsure": 2.0},
        {"fresh": 5.0, "answered": 0.02, "stream": 0.5, "unsure": 0.2},
    ),
    True: ({}, {"answered": 0.02, "unsure": 0.2}),
}
"""Seconds without data after which connections are closed, by kind: initially, and after EAGER_SECONDS.

Keyed by whether the program handles the signal. A program that does may finish streams and idle connections in its own
way, so the guardian initially waits for a moment without a request. (Node.js always handles it, and just exits.)
"""
_LAST_CALL = 0.5
"""Seconds before the deadline at which all connections of a program without a signal handler are closed.

A program that processes one request at a time answers it and then reads the end of the data.
"""


@dataclass(eq=False, repr=False)
class _Leave:
    """A worker that waits for its stop signal."""

    worker: Worker
    began: float
    until: float
    then: list[Callable[[], object]]
    look_at: float
    ports: list[int]
    signal: int
    only_queue: bool
    """Whether to wait only for the queues of its sockets."""
    looking: bool = False
    calm: int = 0
    """Number of consecutive checks that found nothing to wait for."""
    found: dict[str, Any] = field(default_factory=dict)
    """Result of the last check."""


class Leaving:
    """Workers that wait for their stop signal. *log* writes a line."""

    def __init__(
        self, holdings: Holdings, slots: PerSlot, helper: Helper, loop: Loop, log: Callable[[str], None]
    ) -> None:
        self._holdings = holdings
        self._slots = slots
        self._helper = helper
        self._loop = loop
        self._log = log
        self._leaves: dict[int, _Leave] = {}

    def __repr__(self) -> str:
        return f"<Leaving: {len(self._leaves)} workers wait>"

    def begin(self, worker: Worker, seconds: float, then: Callable[[], object], number: int = signal.SIGTERM) -> None:
        """Call *then* when the connections of *worker* have finished, or after *seconds*; now if it has none.

        Further calls for a waiting worker are queued in order. *number*: the signal that it will be sent.
        """
        leave = self._leaves.get(worker.number)
        if leave is not None:
            leave.then.append(then)
            return
        held = [held for held, _ in self._slots.of(worker)]
        if worker.exited or not held:
            worker.leaving = True
            then()
            return
        self._slots.pause(worker)
        only_queue = not worker.per_slot or seconds <= 0
        seconds = QUEUE_SECONDS if only_queue else seconds
        now = self._loop.now()
        ports = [each.address.port for each in held]
        self._leaves[worker.number] = _Leave(
            worker, now, now + seconds, [then], now, ports, number, only_queue=only_queue
        )

    def deadline(self) -> float | None:
        """Return when ``tick`` is due next."""
        times = [leave.until if leave.looking else min(leave.until, leave.look_at) for leave in self._leaves.values()]
        return min(times, default=None)

    def tick(self, now: float) -> None:
        """Check the workers that are due, and send the stop signal to those whose time is over."""
        for number, leave in list(self._leaves.items()):
            if leave.worker.exited:
                del self._leaves[number]
            elif now >= leave.until:
                self._end(leave, self._left_over(leave))
            elif now >= leave.look_at and not leave.looking:
                self._look(leave, now)

    def _look(self, leave: _Leave, now: float) -> None:
        leave.looking = True
        quiet = {kind: round(seconds * 1000) for kind, seconds in self._quiet(leave, now).items()}
        values = {
            "pid": leave.worker.pid,
            "ports": leave.ports,
            "signal": leave.signal,
            "quiet": quiet,
        }
        lent = [member.socket.fileno() for _, member in self._slots.of(leave.worker)]
        self._helper.ask("look_at_connections", values, lent, lambda answer: self._looked(leave, answer))

    def _quiet(self, leave: _Leave, now: float) -> dict[str, float]:
        """Return the kinds of connections to close, with their limits in seconds without data."""
        if leave.only_queue or "handled" not in leave.found:
            return {}
        handled, limit = leave.found["handled"], (leave.until - leave.began) / 2
        if not handled and now >= leave.until - min(_LAST_CALL, limit):
            return dict.fromkeys(("fresh", "answered", "stream", "unsure", "busy"), 0.0)
        eager = now >= leave.began + min(EAGER_SECONDS, limit)
        return {kind: min(seconds, limit) for kind, seconds in _QUIET[handled][eager].items()}

    def _looked(self, leave: _Leave, answer: Answer) -> None:
        leave.looking = False
        now = self._loop.now()
        leave.look_at = now + max(LOOK_SECONDS, 4 * answer.seconds)
        if self._leaves.get(leave.worker.number) is not leave or leave.worker.exited:
            return
        leave.found = answer.values
        if answer.error:
            leave.found = {"problem": answer.sentence}
        elif self._is_finished(leave, now):
            self._end(leave, "")

    def _is_finished(self, leave: _Leave, now: float) -> bool:
        found = leave.found
        paused = all(
            held.slots is not None and held.slots.others_take(leave.worker.number)
            for held, _ in self._slots.of(leave.worker)
        )
        settle = min(max(SETTLE_SECONDS, 4 * found["rtt"]), SETTLE_LIMIT)
        if found["queued"] or (paused and now < leave.began + settle):
            leave.calm = 0
        elif leave.only_queue:
            return True
        elif found["busy"] or found["unsure"] or (found["idle"] and not found["handled"]):
            leave.calm = 0
        else:
            leave.calm += 1
        # The program must close connections that were ended; it has until the next check.
        return leave.calm > bool(found["ended"])

    def _left_over(self, leave: _Leave) -> str:
        """Return what did not finish in time, as the end of a sentence."""
        found = leave.found
        if "problem" in found:
            return f"its connections could not be looked at ({found['problem']})"
        if leave.only_queue:
            return ""
        busy, idle = found.get("busy", 0) + found.get("queued", 0), found.get("unsure", 0) + found.get("idle", 0)
        parts = [f"{busy} connections were in a request" if busy else "", f"{idle} were idle" if idle else ""]
        return ", ".join(part for part in parts if part)

    def _end(self, leave: _Leave, left_over: str) -> None:
        del self._leaves[leave.worker.number]
        if left_over:
            seconds = leave.until - leave.began
            self._log(f"{leave.worker}: drain_timeout ({seconds:g} s) is over and {left_over}; sending the stop signal")
        for then in leave.then:
            then()
