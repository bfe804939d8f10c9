"""Times of day: what has come due is told once by each master, with how long ago it was."""

from __future__ import annotations

import asyncio
import itertools
import time
from datetime import datetime
from typing import TYPE_CHECKING

import pytest

from cluster_service.master.recycle_schedule import BACK, PACE, Schedule, following

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cluster_service.core.protocol.reports import Due


@pytest.fixture
def zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    def choose(name: str) -> None:
        monkeypatch.setenv("TZ", name)
        time.tzset()

    yield choose
    monkeypatch.undo()
    time.tzset()


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


BERLIN, BY_RULE = "Europe/Berlin", "CET-1CEST,M3.5.0,M10.5.0/3"


@pytest.mark.parametrize(
    ("name", "day", "schedule", "expected"),
    [
        (BERLIN, (2030, 3, 31), "30 2 * * *", ["03:00+0200"]),  # 02:30 does not exist that night
        (BERLIN, (2030, 3, 31), "0 3 * * *", ["03:00+0200"]),
        (BERLIN, (2030, 3, 31), "0 4 * * *", ["04:00+0200"]),
        (BERLIN, (2030, 10, 27), "30 2 * * *", ["02:30+0200"]),  # 02:30 occurs twice
        (BERLIN, (2030, 10, 27), "0 3 * * *", ["03:00+0100"]),
        (BERLIN, (2030, 10, 27), "0 4 * * *", ["04:00+0100"]),
        (BY_RULE, (2030, 3, 31), "30 2 * * *", ["03:00+0200"]),
        (BY_RULE, (2030, 10, 27), "30 2 * * *", ["02:30+0200"]),
        ("America/New_York", (2030, 3, 10), "15 2 * * *", ["03:00-0400"]),
        ("America/New_York", (2030, 11, 3), "15 1 * * *", ["01:15-0400"]),
        ("Australia/Lord_Howe", (2030, 10, 6), "15 2 * * *", ["02:30+1100"]),  # by half an hour
        ("Australia/Lord_Howe", (2030, 4, 7), "45 1 * * *", ["01:45+1100"]),
        ("Asia/Kolkata", (2030, 3, 31), "30 2 * * *", ["02:30+0530"]),
        ("UTC", (2030, 3, 31), "30 2 * * *", ["02:30+0000"]),
    ],
)
def test_a_time_of_day_comes_once_in_the_night_of_a_clock_change(
    zone: Callable[[str], None], name: str, day: tuple[int, int, int], schedule: str, expected: list[str]
) -> None:
    zone(name)
    now = datetime(*day).timestamp()
    looked, came = now, []
    for _ in range(8 * 120):  # eight hours, looked at every 30 seconds as the master does
        at = following(schedule, looked)
        assert at is not None
        assert at > looked
        if at <= now:
            came.append(datetime.fromtimestamp(at).astimezone().strftime("%H:%M%z"))
        looked, now = now, now + PACE
    assert came == expected


def test_every_half_hour_comes_in_real_time_through_a_clock_change(zone: Callable[[str], None]) -> None:
    zone(BERLIN)
    for day in ((2030, 3, 31), (2030, 10, 27)):
        at: float | None = datetime(*day, 0, 10).timestamp()
        times = []
        for _ in range(12):
            assert at is not None
            at = following("*/30 * * * *", at)
            times.append(at)
        assert [b - a for a, b in itertools.pairwise(times) if a and b] == [1800.0] * 11
