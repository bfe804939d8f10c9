"""Time that passes only when it is told to.

Invariants: ``now`` never goes back; timers run in the order of their time and, at one time, in the order in which they
were set; nobody sleeps. A whole day of a service takes as long as its events take to compute.
"""

from __future__ import annotations

import heapq
import itertools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Timer:
    """Something that will happen at ``when``, unless ``cancel`` is called first."""

    def __init__(self, when: float, callback: Callable[[], None]) -> None:
        self.when = when
        self.callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        """Make sure that it does not happen. Harmless when it already has."""
        self.cancelled = True

    def __repr__(self) -> str:
        return f"<Timer at {self.when:.3f}{' cancelled' if self.cancelled else ''}>"


class Clock:
    """A virtual monotonic clock, in seconds, that begins at *now*."""

    def __init__(self, now: float = 1000.0) -> None:
        self._now = now
        self._count = itertools.count()
        self._timers: list[tuple[float, int, Timer]] = []

    def __repr__(self) -> str:
        return f"<Clock {self._now:.3f}, {sum(not timer.cancelled for _, _, timer in self._timers)} timers>"

    @property
    def now(self) -> float:
        """The time, as ``time.monotonic()`` would tell it."""
        return self._now

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        """Call *callback* when the time is *when* (at once, on the next turn, if that is over)."""
        timer = Timer(max(when, self._now), callback)
        heapq.heappush(self._timers, (timer.when, next(self._count), timer))
        return timer

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        """Call *callback* in *seconds*."""
        return self.call_at(self._now + seconds, callback)

    def next_due(self) -> float | None:
        """The time of the next timer; None when there is none."""
        while self._timers and self._timers[0][2].cancelled:
            heapq.heappop(self._timers)
        return self._timers[0][0] if self._timers else None

    def step(self, until: float) -> bool:
        """Go to the next timer that is due by *until* and run it; with none, go to *until* and return False."""
        due = self.next_due()
        if due is None or due > until:
            self._now = max(self._now, until)
            return False
        _, _, timer = heapq.heappop(self._timers)
        self._now = max(self._now, due)
        timer.callback()
        return True

    def advance(self, seconds: float) -> None:
        """Let *seconds* pass, running what comes due on the way."""
        until = self._now + seconds
        while self.step(until):
            pass

    def jump(self, seconds: float) -> None:
        """Stand still for *seconds*: the time is later, nothing has run, and every timer has as long to go as before.

        It is what a program sees after the machine, its container or all its processes were suspended.
        """
        self._now += seconds
        shifted = [(when + seconds, order, timer) for when, order, timer in self._timers if not timer.cancelled]
        for when, _, timer in shifted:
            timer.when = when
        heapq.heapify(shifted)
        self._timers = shifted
