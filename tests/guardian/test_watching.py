"""A handler that fails costs neither the guardian nor the descriptor: it is called again, but not too often."""

from __future__ import annotations

import errno
import os
import select
from typing import TYPE_CHECKING

import pytest

from cluster_service.guardian.event_loop import FIRST_PAUSE, LONGEST_PAUSE, Loop

if TYPE_CHECKING:
    from collections.abc import Iterator

ERRORS = [ValueError("a mistake"), OSError(errno.ENOMEM, "no memory"), MemoryError()]


class Clocked(Loop):
    """A loop whose clock stands still unless it waits."""

    def __init__(self) -> None:
        super().__init__()
        self.time = 1000.0
        self.faults: list[tuple[Exception, str]] = []
        self.on_fault = lambda error, where: self.faults.append((error, where))

    def now(self) -> float:
        return self.time


class Set:
    """An epoll set that lets the loop's clock pass instead of waiting. *refuses*: registrations that fail."""

    def __init__(self, loop: Clocked) -> None:
        self._loop = loop
        self._epoll = loop._epoll
        self.refuses = 0
        self.modify, self.unregister, self.close = self._epoll.modify, self._epoll.unregister, self._epoll.close

    def register(self, descriptor: int, events: int) -> None:
        if self.refuses:
            self.refuses -= 1
            raise OSError(errno.ENOSPC, "max_user_watches")
        self._epoll.register(descriptor, events)

    def poll(self, seconds: float | None) -> list[tuple[int, int]]:
        ready = self._epoll.poll(0)
        if not ready and seconds is not None:
            self._loop.time += seconds
        return ready


class Scene:
    """A loop that watches a pipe in which one byte waits, for ever."""

    def __init__(self) -> None:
        self.loop = Clocked()
        self.set = self.loop._epoll = Set(self.loop)  # type: ignore[assignment]
        self.pipe, self.end = os.pipe()
        os.write(self.end, b".")
        self.error: Exception | None = None
        self.called: list[float] = []

    def handle(self, _events: int) -> None:
        self.called.append(self.loop.time)
        if self.error is not None:
            raise self.error

    def turn(self, times: int) -> None:
        for _ in range(times):
            self.loop.turn(60.0)


@pytest.fixture
def scene() -> Iterator[Scene]:
    made = Scene()
    yield made
    made.loop.close()
    for descriptor in (made.pipe, made.end):
        os.close(descriptor)


@pytest.mark.parametrize("error", ERRORS, ids=repr)
def test_it_is_called_again_after_a_pause_that_grows(scene: Scene, error: Exception) -> None:
    scene.error = error
    scene.loop.watch(scene.pipe, scene.handle)
    scene.turn(40)
    pauses = [after - before for before, after in zip(scene.called, scene.called[1:], strict=False)]
    assert len(pauses) > 10
    assert pauses[0] == pytest.approx(FIRST_PAUSE)
    assert pauses[1] == pytest.approx(2 * FIRST_PAUSE)
    assert pauses[-1] == pytest.approx(LONGEST_PAUSE)
    assert len(scene.loop.faults) == len(scene.called), "each is reported"
    assert "Scene.handle" in scene.loop.faults[0][1]
    scene.error = None
    scene.turn(5)
    assert scene.called[-1] == scene.called[-2], "it works again, and no pause is left"


def test_others_are_served_meanwhile(scene: Scene) -> None:
    scene.error = ValueError()
    scene.loop.watch(scene.pipe, scene.handle)
    reading, writing = os.pipe()
    os.write(writing, b".")
    served: list[int] = []
    scene.loop.watch(reading, served.append)
    scene.turn(10)
    assert len(served) == 10
    assert len(scene.called) == 1, "no time has passed"
    scene.loop.drop(reading)
    os.close(reading)
    os.close(writing)


def test_what_is_dropped_or_changed_in_its_pause(scene: Scene) -> None:
    scene.error = ValueError()
    scene.loop.watch(scene.pipe, scene.handle)
    scene.turn(1)
    scene.loop.change(scene.pipe, 0)
    scene.turn(5)
    assert len(scene.called) == 1, "nothing is waited for any more"
    scene.loop.change(scene.pipe, select.EPOLLIN)
    scene.turn(1)
    assert len(scene.called) == 2
    scene.loop.drop(scene.pipe)
    scene.turn(5)
    assert len(scene.called) == 2
    scene.error = None
    scene.loop.watch(scene.pipe, scene.handle)
    scene.turn(1)
    assert len(scene.called) == 3, "at once"


def test_one_that_has_dropped_it_before_it_failed(scene: Scene) -> None:
    def drop(_events: int) -> None:
        scene.loop.drop(scene.pipe)
        raise ValueError

    scene.loop.watch(scene.pipe, drop)
    scene.turn(5)
    assert len(scene.loop.faults) == 1


def test_a_descriptor_that_cannot_be_watched_is_watched_later(scene: Scene) -> None:
    scene.set.refuses = 3
    scene.loop.watch(scene.pipe, scene.handle)
    scene.loop.change(scene.pipe, select.EPOLLIN)
    scene.turn(6)
    assert len(scene.loop.faults) == 3
    assert scene.called


def test_one_that_can_never_be_watched_is_refused_at_once(scene: Scene) -> None:
    with open(os.devnull, "rb") as file, pytest.raises(PermissionError):
        scene.loop.watch(file.fileno(), scene.handle)
    scene.turn(1)
