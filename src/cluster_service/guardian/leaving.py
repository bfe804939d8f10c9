"""The way out of a worker whose program does not finish its requests when it is told to stop.

Before its stop signal, new connections go to other workers (``slots``); then the guardian waits until the queue of the
worker's socket is empty, connections that were being opened have arrived, and no connection is in the midst of a
request (``connections``): for as long as the order says, and no longer. A program that does not handle the signal has
its idle connections ended meanwhile. Where no other worker accepts, as in a shutdown, the worker goes on accepting
until there is a moment without a request.
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
"""Between two looks at a worker's connections; at least four times as long as the last look took."""
SETTLE_SECONDS, SETTLE_LIMIT = 0.3, 3.0
"""For connections that were being opened when the worker was paused: four round trips, within these bounds."""
QUEUE_SECONDS = 1.0
"""How long the queue is waited for where nothing else is: the worker finishes its requests itself."""
EAGER_SECONDS = 2.0
"""After which busy clients are not waited for any more: connections end as soon as a request is answered."""

_QUIET: dict[bool, tuple[dict[str, float], dict[str, float]]] = {
    False: (
        {"fresh": 5.0, "answered": 0.5, "stream": 2.0, "unsure": 2.0},
        {"fresh": 5.0, "answered": 0.02, "stream": 0.5, "unsure": 0.2},
    ),
    True: ({}, {"answered": 0.02, "unsure": 0.2}),
}
"""Seconds without data after which connections are ended, by their kind: at first, and after EAGER_SECONDS.

By whether the program handles the signal. One that does may finish streams, and its idle connections, in its own way;
so the guardian waits at first for a moment without a request. (Node.js handles it in any case, and just ends.)
"""
_LAST_CALL = 0.5
"""Seconds before the end of the time from which on all connections of a program that handles no signal are ended: one
that works on one request at a time answers it, and reads the end of the data then."""


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
    """Nothing but the queue of its sockets is waited for."""
    looking: bool = False
    calm: int = 0
    """How many looks in a row have found nothing to wait for."""
    found: dict[str, Any] = field(default_factory=dict)
    """What the last look has found."""


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
        """Call *then* once the connections of *worker* are finished, in *seconds* at most; now, if it has none.

        What is asked while the worker waits is done after what was asked before. *number*: the signal that it is to be
        sent.
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
        """When ``tick`` has something to do."""
        times = [leave.until if leave.looking else min(leave.until, leave.look_at) for leave in self._leaves.values()]
        return min(times, default=None)

    def tick(self, now: float) -> None:
        """Look at the workers whose time it is, and go on with those whose time is over."""
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
        """Return which connections are to be ended, and after how many seconds without data."""
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
        # Connections that were ended are the program's to close: it has until the next look.
        return leave.calm > bool(found["ended"])

    def _left_over(self, leave: _Leave) -> str:
        """Return what the time was not enough for, as the end of a sentence."""
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
