"""Handlers of events: each gets its events in order, and can harm neither the master nor each other."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any, cast

import pytest

from cluster_service.commands.registry import Registry
from cluster_service.master import hooks
from cluster_service.master.custom_command_registry import Extensions
from cluster_service.master.hooks import Hooks, Published, hears_events

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

DEADLINE = 20.0


def event(name: str = "worker_exit", number: int = 1, **fields: Any) -> Published:
    return Published(number, "2030-01-01T00:00:00Z", "test", name, {"pid": 71, **fields})


def during(story: Callable[[Hooks], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(story(Hooks(Extensions(Registry()))), DEADLINE))


@pytest.mark.parametrize("name", ["worker_exit", "workerExit", "worker-exit", "*"])
def test_a_handler_is_called_with_the_event(name: str) -> None:
    async def story(found: Hooks) -> None:
        got: list[Published] = []
        found.on(name, got.append)
        found.fire(event(reason="failure"))
        await found.idle(DEADLINE)
        assert [(each.pid, each.reason, each.service) for each in got] == [(71, "failure", "test")]

    during(story)


def test_order_is_kept_by_both_kinds() -> None:
    async def story(found: Hooks) -> None:
        sync: list[int] = []
        asynchronous: list[int] = []

        async def handler(told: Published) -> None:
            await asyncio.sleep(0)
            asynchronous.append(told.id)

        found.on("worker_exit", lambda told: sync.append(told.id))
        found.on("worker_exit", handler)
        for number in range(500):
            found.fire(event(number=number))
        await found.idle(DEADLINE)
        assert sync == asynchronous == list(range(500))

    during(story)


def test_what_a_handler_raises_is_logged_and_the_next_event_comes(capfd: pytest.CaptureFixture[str]) -> None:
    async def story(found: Hooks) -> None:
        got: list[int] = []

        def bad(told: Published) -> None:
            got.append(told.id)
            raise SystemExit(1) if told.id else ValueError("no good")

        async def worse(told: Published) -> None:
            got.append(told.id)
            raise KeyboardInterrupt if told.id else ValueError("no better")

        found.on("worker_exit", bad)
        found.on("worker_exit", worse)
        found.fire(event(number=0))
        found.fire(event(number=1))
        await found.idle(DEADLINE)
        assert sorted(got) == [0, 0, 1, 1]

    during(story)
    said = capfd.readouterr().err
    assert "bad of worker_exit failed:" in said
    assert "ValueError: no good" in said
    assert "ValueError: no better" in said
    assert "master/hooks.py" not in said.replace("tests/master", "")


def test_a_handler_that_blocks_keeps_nobody_else_from_hearing(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(hooks, "WAITING", 10)

    async def story(found: Hooks) -> None:
        release = threading.Event()
        got: list[int] = []
        late: list[int] = []

        def blocks(told: Published) -> None:
            release.wait()
            late.append(told.id)

        found.on("worker_exit", blocks)
        found.on("worker_exit", lambda told: got.append(told.id))
        for number in range(30):
            found.fire(event(number=number))
            await found._handlers["worker_exit"][1].idle(DEADLINE)
        assert got == list(range(30))
        await found.idle(0.0)  # it is not waited for
        release.set()
        await found.idle(DEADLINE)
        assert late == [0, *range(20, 30)]

    during(story)
    assert "blocks is 10 events behind: the oldest are dropped" in capfd.readouterr().err


def test_an_async_handler_has_its_time(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(hooks, "SECONDS", 0.01)

    async def story(found: Hooks) -> None:
        async def never(told: Published) -> None:
            await asyncio.Event().wait()

        found.on("worker_exit", never)
        found.fire(event())
        await found.idle(DEADLINE)

    during(story)
    assert "never of worker_exit has not ended within 0.01 s" in capfd.readouterr().err


def test_a_function_that_returns_a_coroutine() -> None:
    async def story(found: Hooks) -> None:
        got: list[int] = []

        async def later(told: Published) -> None:
            got.append(told.id)

        found.on("worker_exit", lambda told: later(told))  # noqa: PLW0108 - it is no coroutine function
        found.fire(event())
        await found.idle(DEADLINE)
        assert got == [1]

    during(story)


def test_names_that_cannot_be() -> None:
    found = Hooks(Extensions(Registry()))
    with pytest.raises(ValueError, match=r"there is no event 'worker_exits': did you mean 'worker_exit'\?"):
        found.on("worker_exits", print)
    with pytest.raises(TypeError, match="the handler of 'worker_exit' must be callable, not int"):
        found.on("worker_exit", 3)  # type: ignore[arg-type]
    with pytest.raises(AttributeError, match="the event worker_exit has no 'colour', only pid"):
        _ = event().colour


def test_what_is_a_handler_of_events() -> None:
    assert hears_events("workerExit", print)
    assert hears_events("*", print)
    assert hears_events("order_paid", lambda event: event)
    assert not hears_events("order_paid", lambda order: order)
    assert not hears_events("health", lambda context: context)
    assert not hears_events("greet", lambda: None)


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_handler_that_could_not_be_started_has_its_events_later(
    kind: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(hooks, "TRY_AGAIN", 0.01)
    failures = 3

    async def story(found: Hooks) -> None:
        nonlocal failures
        got: list[int] = []
        loop = asyncio.get_running_loop()
        start, create_task = threading.Thread.start, loop.create_task

        def no_thread(thread: threading.Thread) -> None:
            nonlocal failures
            failures -= 1
            if failures >= 0:
                raise RuntimeError("can't start new thread")
            start(thread)

        def no_task(work: Any, **more: Any) -> Any:
            nonlocal failures
            if getattr(work, "__name__", "") == "_on_loop":
                failures -= 1
                if failures >= 0:
                    raise MemoryError
            return create_task(work, **more)

        async def later(told: Published) -> None:
            got.append(told.id)

        monkeypatch.setattr(threading.Thread, "start", no_thread)
        monkeypatch.setattr(loop, "create_task", no_task)
        found.on("worker_exit", later if kind == "async" else lambda told: got.append(told.id))
        found.fire(event(number=1))
        found.fire(event(number=2))
        await found.idle(DEADLINE)
        assert got == [1, 2]
        found.fire(event(number=3))
        await found.idle(DEADLINE)
        assert got == [1, 2, 3]

    during(story)
    assert capfd.readouterr().err.count("was not started") == 1


def test_a_handler_that_takes_no_event_is_told_of_each_time(capfd: pytest.CaptureFixture[str]) -> None:
    async def story(found: Hooks) -> None:
        async def no_argument() -> None:
            return

        found.on("worker_exit", cast("Any", no_argument))
        for number in range(2):
            found.fire(event(number=number))
            await found.idle(DEADLINE)

    during(story)
    assert capfd.readouterr().err.count("failed:") == 2
