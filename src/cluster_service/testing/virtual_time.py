"""Virtual time.

Invariants: ``now`` never decreases; timers run in the order of their times and, for equal times, in the order in which
they were set; no code sleeps. A whole day of a service takes as long as its events take to compute.
"""

from __future__ import annotations

import heapq
import itertools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Timer:
    """A callback that runs at ``when``, unless ``cancel`` is called first."""

    def __init__(self, when: float, callback: Callable[[], None]) -> None:
        self.when = when
        self.callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        """Prevent the callback from running. Has no effect once it has run."""
        self.cancelled = True

    def __repr__(self) -> str:
        return f"<Timer at {self.when:.3f}{' cancelled' if self.cancelled else ''}>"


class Clock:
    """A virtual monotonic clock, in seconds, that starts at *now*."""

    def __init__(self, now: float = 1000.0) -> None:
        self._now = now
        self._count = itertools.count()
        self._timers: list[tuple[float, int, Timer]] = []

    def __repr__(self) -> str:
        return f"<Clock {self._now:.3f}, {sum(not timer.cancelled for _, _, timer in self._timers)} timers>"

    @property
    def now(self) -> float:
        """Current time, as ``time.monotonic()`` would return it."""
        return self._now

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        """Call *callback* at *when*, or in the next step if that has passed."""
        timer = Timer(max(when, self._now), callback)
        heapq.heappush(self._timers, (timer.when, next(self._count), timer))
        return timer

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        """Call *callback* in *seconds*."""
        return self.call_at(self._now + seconds, callback)

    def next_due(self) -> float | None:
        """Return the time of the next timer, or None if there is none."""
        while self._timers and self._timers[0][2].cancelled:
            heapq.heappop(self._timers)
        return self._timers[0][0] if self._timers else None

    def step(self, until: float) -> bool:
        """Advance to the next timer due by *until* and run it; if none is, advance to *until* and return False."""
        due = self.next_due()
        if due is None or due > until:
            self._now = max(self._now, until)
            return False
        _, _, timer = heapq.heappop(self._timers)
        self._now = max(self._now, due)
        timer.callback()
        return True

    def advance(self, seconds: float) -> None:
        """Let *seconds* pass and run the timers that come due."""
        until = self._now + seconds
        while self.step(until):
            pass

    def jump(self, seconds: float) -> None:
        """Suspend everything for *seconds*: time advances, nothing runs, and every timer has as long to go as before.

        A program observes this after its machine, its container or all its processes were suspended.
        """
        self._now += seconds
        shifted = [(when + seconds, order, timer) for when, order, timer in self._timers if not timer.cancelled]
        for when, _, timer in shifted:
            timer.when = when
        heapq.heapify(shifted)
        self._timers = shifted
