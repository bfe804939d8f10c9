"""The stop of a worker: one table, and the record of one stop.

``TRANSITIONS`` is the complete table; the diagram in the documentation is drawn from it. ``runtime`` and
``program_handlers`` carry out what belongs to each transition. An event that the table does not name for a state has no
effect there: a second SIGTERM during a drain, or the end of a drain that was given up.

A fork of the worker is not a worker. Its record starts again at ``running`` (``StopSequence.reset``).
"""

from __future__ import annotations

from typing import Container, Dict, List, NamedTuple, Optional

from .unpatched import Bell, time

TRANSITIONS: Dict[str, Dict[str, str]] = {
    # Not asked to stop.
    "running": {"stop": "announced", "exit": "exiting"},
    # Asked to stop, within a known time. SIGTERM has not been handled yet.
    "announced": {
        "drain": "draining", "hold": "settling", "end_loop": "ending_loop", "leave": "leaving", "exit": "stopped",
    },
    # The servers have stopped accepting; a thread waits until their requests are answered.
    "draining": {"drained": "drained", "expired": "drained", "hold": "draining_held", "exit": "finishing"},
    # The program has set its own handler during the drain. SIGTERM is held back from it until the drain ends.
    "draining_held": {"drained": "released", "expired": "released", "exit": "finishing"},
    # SIGTERM is held back from the program's own handler until the requests in progress are answered.
    "settling": {
        "settled": "released",
        "drain": "draining", "end_loop": "ending_loop", "leave": "leaving", "exit": "stopped",
    },
    # The program's own handler runs, and ends the program. If it restores the runtime's handler, that ends the program.
    "released": {"drain": "draining", "end_loop": "ending_loop", "leave": "leaving", "exit": "stopped"},
    # All requests are answered; the runtime's handler ends the program in the main thread.
    "drained": {"end_loop": "ending_loop", "leave": "leaving", "exit": "stopped"},
    # An asyncio loop runs in the main thread, and ends the program between two of its callbacks.
    "ending_loop": {"leave": "leaving", "exit": "stopped"},
    # on_worker_stop runs, then SystemExit unwinds the program. Where exceptions are ignored, it is raised again.
    "leaving": {"ignored": "drained", "exit": "stopped"},
    # The main thread has ended; requests are still being answered.
    "finishing": {"drained": "stopped", "expired": "stopped"},
    # The interpreter is shutting down; the worker was not asked to stop.
    "exiting": {"stop": "stopped"},
    # The interpreter is shutting down; on_worker_stop runs unless it has run.
    "stopped": {},
}  # fmt: skip

UNASKED = frozenset(("running", "exiting"))
"""States of a worker that was not asked to stop."""
HELD = frozenset(("settling", "draining_held"))
"""States in which SIGTERM is held back from the program's own handler."""
DRAINING = frozenset(("draining", "draining_held", "finishing"))
"""States in which requests are still being answered by servers that have stopped accepting."""
CLOSED = DRAINING | frozenset(("drained", "ending_loop", "leaving", "stopped"))
"""States in which a server that starts is stopped immediately."""
SHUTTING_DOWN = frozenset(("finishing", "exiting", "stopped"))
"""States of the interpreter's shutdown."""

DEFAULT_TIMEOUT = 60.0
"""Seconds to stop if no timeout was announced."""


class _Event(NamedTuple):
    name: str
    deadline: float


class StopSequence:
    """The record of one stop. Usable in signal handlers and in any thread.

    A signal handler may interrupt the main thread at any point, so a lock would deadlock, and a state that is read and
    then written could be overwritten. Therefore only events are stored, in a list to which they are appended
    atomically, and the state is computed from them. All threads see the same order of events, so exactly one of them
    makes each transition.
    """

    def __init__(self) -> None:
        self._events: List[_Event] = []
        self._waiting: List[Bell] = []

    def __repr__(self) -> str:
        return f"<StopSequence {self.state}>"

    @property
    def state(self) -> str:
        """The current state."""
        return self._state_before(None)

    def _state_before(self, last: Optional[_Event]) -> str:
        state = "running"
        for event in self._events:
            if event is last:
                break
            state = TRANSITIONS[state].get(event.name, state)
        return state

    def can(self, event: str) -> bool:
        """Return True if *event* has an effect in the current state."""
        return event in TRANSITIONS[self.state]

    def move(self, event: str, deadline: float = float("inf")) -> Optional[str]:
        """Record *event* and return the state that it enters; None if it has no effect.

        If several threads report the same event, one of them receives the state, and the others None.
        """
        if not self.can(event):
            return None
        mine = _Event(event, deadline)
        self._events.append(mine)
        entered = TRANSITIONS[self._state_before(mine)].get(event)
        for bell in list(self._waiting):
            bell.ring()
        return entered

    def announce(self, timeout: float) -> None:
        """Record that the worker must exit within *timeout* seconds. Only the first call has an effect."""
        # Reserve part of the time for the program's own exit: its finally blocks and its cleanup.
        self.move("stop", time.monotonic() + max(timeout - 2.0, timeout * 0.8))

    @property
    def deadline(self) -> float:
        """The time (``time.monotonic()``) by which the worker should have exited; infinite before a stop."""
        return next((event.deadline for event in self._events if event.name == "stop"), float("inf"))

    def remaining(self) -> float:
        """Return the seconds left to stop; the default timeout if no stop was announced."""
        return DEFAULT_TIMEOUT if self.state in UNASKED else max(0.0, self.deadline - time.monotonic())

    def wait_while(self, states: Container[str], seconds: float) -> bool:
        """Wait until the state is none of *states*. Return False if it still is after *seconds*."""
        end = time.monotonic() + seconds
        bell = Bell()
        self._waiting.append(bell)
        try:
            while self.state in states:
                if not bell.wait(end - time.monotonic()) and time.monotonic() >= end:
                    return self.state not in states
            return True
        finally:
            self._waiting.remove(bell)

    def reset(self) -> None:
        """Start again, in a fork: the stop was that of the worker."""
        self._events, self._waiting = [], []
