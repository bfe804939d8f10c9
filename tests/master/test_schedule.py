"""Times of day: what has come due is told once by each master, with how long ago it was."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import TYPE_CHECKING

from cluster_service.master.schedule import BACK, PACE, Schedule, following

if TYPE_CHECKING:
    from cluster_service.core.reports import Due


def asked(wanted: dict[str, str], times: int = 1) -> tuple[list[Due], list[float]]:
    """What a schedule tells when it is looked at so many times, and how long its timer would run after each."""
    told: list[Due] = []
    waits: list[float] = []

    async def look() -> None:
        loop = asyncio.get_running_loop()
        schedule = Schedule(loop, told.append, lambda: wanted)
        for _ in range(times):
            schedule.look()
            timer = schedule._timer
            waits.append(timer.when() - loop.time() if timer is not None else -1.0)
        wanted.clear()
        schedule.look()
        assert schedule._timer is None

    asyncio.run(look())
    return told, waits


def test_a_new_master_tells_what_came_while_there_was_none() -> None:
    (due,), _ = asked({"web": "* * * * *"})
    assert due.group == "web"
    assert due.why.startswith("it is ")
    assert 0 <= due.ago <= BACK


def test_what_has_been_told_is_not_told_again() -> None:
    told, waits = asked({"web": "* * * * *"}, times=3)
    assert len(told) <= 2, "but for a minute that begins meanwhile"
    assert all(0 < wait <= PACE + 0.1 for wait in waits)


def test_what_is_far_away_is_looked_at_again_soon_because_clocks_are_set() -> None:
    told, waits = asked({"web": "0 4 1 1 *"})
    assert not told or (datetime.now().month, datetime.now().day) == (1, 1)
    assert waits == [PACE] or abs(waits[0] - PACE) < 0.1


def test_the_time_is_the_machines_own() -> None:
    noon = datetime(2026, 6, 1, 12, 0).astimezone()
    found = following("30 14 * * *", noon.timestamp())
    assert found is not None
    assert datetime.fromtimestamp(found) == datetime(2026, 6, 1, 14, 30)


def test_without_schedules_there_is_no_timer() -> None:
    assert asked({}) == ([], [-1.0])
