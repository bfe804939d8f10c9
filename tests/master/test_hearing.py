"""Many facts at once: the core is given them in few steps, and the endpoints are served in between."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from cluster_service.master import loop
from cluster_service.wire import facts

from .test_carrying import Seen, during

if TYPE_CHECKING:
    import pytest


def begun(seen: Seen) -> None:
    """Let the master have started its three workers."""
    seen.master._early = None
    seen.master.handle(seen.master.hello)
    seen.orders("spawn")


def test_what_arrives_together_is_one_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(seen: Seen) -> None:
        begun(seen)
        for number in (1, 2, 3):
            seen.master._on_fact(facts.Spawned(number, 100 + number), None)
        await asyncio.sleep(0)
        seen.orders("note")
        for number in (1, 2, 3):
            seen.master._on_fact(facts.Exited(number, None, 9), None)
        for number in (1, 2, 3):
            seen.master._on_fact(facts.Output(number, []), None)
        await asyncio.sleep(0)
        assert not seen.master._heard
        assert len(seen.orders("note")) == 1
        assert [slot.history.streak for slot in seen.master.cluster.groups["web"].slots.values()] == [1, 1, 1]

    during(monkeypatch, story)


def test_the_endpoints_are_served_between_two_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "HEARING_SECONDS", 0.0)

    async def story(seen: Seen) -> None:
        begun(seen)
        happened: list[Any] = []
        monkeypatch.setattr(seen.master, "handle", lambda *batch: happened.append(len(batch)))
        for fact in (facts.Spawned(1, 101), facts.Spawned(2, 102), facts.Ready(1), facts.Exited(1, 0, None)):
            seen.master._on_fact(fact, None)
        while seen.master._heard:
            await asyncio.sleep(0)
            happened.append("served")
        assert happened == [2, "served", 1, "served", 1, "served"]

    during(monkeypatch, story)


def test_what_the_master_found_out_and_what_time_asks_for_come_after_what_was_heard(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def story(seen: Seen) -> None:
        begun(seen)
        happened: list[Any] = []
        monkeypatch.setattr(seen.master, "handle", lambda *batch: happened.extend(batch))
        seen.master._on_fact(facts.Spawned(1, 101), None)
        seen.master._on_report("a report")
        seen.master._on_time()
        assert happened == []
        await asyncio.sleep(0)
        assert happened == [facts.Spawned(1, 101), "a report"]
        seen.master._on_report("another")
        assert happened[2:] == ["another"], "at once, if nothing was heard before"

    during(monkeypatch, story)
