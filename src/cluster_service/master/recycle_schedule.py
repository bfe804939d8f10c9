"""Times of day at which groups are recycled. Only here does the wall clock trigger an action.

A new master also looks back, for times that passed while no master ran. Reporting the same time twice is harmless: only
workers that already ran at that time are due.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta, tzinfo
from typing import TYPE_CHECKING

from cluster_service.core.protocol.reports import Due

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Mapping

PACE = 30.0
"""Maximum seconds between two looks at the clock, which may be set."""

BACK = 300.0
"""Seconds that a new master looks back."""


class Schedule:
    """The timer. *tell* receives the reports; *wanted* returns the schedule of each group that has one."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, tell: Callable[[Due], None], wanted: Callable[[], Mapping[str, str]]
    ) -> None:
        self._loop = loop
        self._tell = tell
        self._wanted = wanted
        self._timer: asyncio.TimerHandle | None = None
        self._looked = time.time() - BACK

    def look(self) -> None:
        """Report what has come due since the last call, and set the timer. Call it when the settings change too."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        wanted = self._wanted()
        if not wanted:
            return
        self._timer = self._loop.call_later(PACE, self.look)  # first, so that a failure below does not stop the timer
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


class LocalTime(tzinfo):
    """The machine's own time zone, through both sides of a clock change.

    ``datetime.astimezone()`` gives the offset of one moment, which is wrong an hour later in the night of a clock
    change. This asks the C library at each use, so TZ may be a name, a file or a POSIX rule, and need not be set.
    """

    def utcoffset(self, dt: datetime | None) -> timedelta | None:
        """Return the offset at *dt*, a local time; ``fold`` selects one of two equal local times (PEP 495)."""
        return None if dt is None else dt.replace(tzinfo=None).astimezone().utcoffset()

    def dst(self, _dt: datetime | None) -> None:
        """Return None: the C library does not report it in a portable way, and no caller needs it."""

    def tzname(self, dt: datetime | None) -> str | None:
        """Return the zone's abbreviation at *dt*."""
        return None if dt is None else dt.replace(tzinfo=None).astimezone().tzname()

    def fromutc(self, dt: datetime) -> datetime:
        """Return the local time of *dt*, which is in UTC."""
        local = dt.replace(tzinfo=UTC).astimezone()
        first, second = (local.replace(tzinfo=self, fold=fold) for fold in (0, 1))
        return first if first.utcoffset() == local.utcoffset() else second


def following(schedule: str, since: float) -> float | None:
    """Return when *schedule* comes next after *since*, both in seconds since the epoch; None: never.

    As with cron(8), a time that a clock change skips comes at the first minute after the change, and a time that
    occurs twice comes the first time only.
    """
    from cronsim import CronSim  # only with such a setting

    times = CronSim(schedule, datetime.fromtimestamp(since, LocalTime()))
    return next((at for at in (each.timestamp() for each in times) if at > since), None)
