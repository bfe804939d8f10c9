"""Times of day at which groups are recycled, by the wall clock: the one thing here that goes by it.

A master looks back as well, for what came while there was none. To be told of the same time twice does no harm: only
workers that were there at that time are due.
"""

from __future__ import annotations

import time
from datetime import datetime
from typing import TYPE_CHECKING

from cluster_service.core.reports import Due

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Mapping

PACE = 30.0
"""Seconds after which the clock is looked at again, at most: it may be set."""

BACK = 300.0
"""Seconds of the past that a new master looks at."""


class Schedule:
    """The timer. *tell* takes the reports; *wanted* returns each group's schedule, for those that have one."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, tell: Callable[[Due], None], wanted: Callable[[], Mapping[str, str]]
    ) -> None:
        self._loop = loop
        self._tell = tell
        self._wanted = wanted
        self._timer: asyncio.TimerHandle | None = None
        self._looked = time.time() - BACK

    def look(self) -> None:
        """Tell what has come due since the last look, and look again in time. Call it when the settings change too."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        wanted = self._wanted()
        if not wanted:
            return
        self._timer = self._loop.call_later(PACE, self.look)  # first: whatever becomes of this look, there is another
        now = time.time()
        since = min(self._looked, now)  # the clock may have been set back
        nearest = now + PACE
        for group, schedule in wanted.items():
            at = following(schedule, since)
            if at is not None and at <= now:
                self._tell(Due(group, f"it is {datetime.fromtimestamp(at):%H:%M}", now - at))
                at = following(schedule, now)
            nearest = min(nearest, at or nearest)
        self._looked = now
        self._timer.cancel()
        self._timer = self._loop.call_later(max(0.0, nearest - now) + 0.01, self.look)


def following(schedule: str, since: float) -> float | None:
    """When *schedule* comes next after *since*, both in seconds since the epoch; None: never."""
    from cronsim import CronSim  # noqa: PLC0415 - only where there is such a setting

    return next((at.timestamp() for at in CronSim(schedule, datetime.fromtimestamp(since).astimezone())), None)
