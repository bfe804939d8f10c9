"""What a worker can make the guardian do by renaming files beside its sockets."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from cluster_service.guardian import syscalls, unix_sockets
from cluster_service.guardian.event_loop import Loop
from cluster_service.guardian.unix_sockets import Kept, Paths, Place

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SOCKETS = 20


class Kinds:
    """Files that are kept in one directory, and which of them were looked at."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.looked: list[str] = []
        start: Any = lambda held, _begin: self.looked.append(held.key)  # noqa: E731 - typed
        unused: Any = None
        self.paths = Paths(start, unused, unused)
        inotify = self.paths.open()
        assert inotify is not None
        self.inotify = inotify
        watch = syscalls.inotify_watch(inotify, os.fsencode(directory))
        for number in range(SOCKETS):
            held: Any = SimpleNamespace(key=f"s{number}", kept=None)
            self.paths.keep(held, Kept(Place(-1, held.key.encode(), (0, 0), None), watch))

    def rename(self, name: str, times: int) -> None:
        """Rename the file *name* there and back."""
        (self.directory / name).touch()
        for _ in range(times):
            os.rename(self.directory / name, self.directory / "other")
            os.rename(self.directory / "other", self.directory / name)


@pytest.fixture
def kinds(tmp_path: Path) -> Iterator[Kinds]:
    found = Kinds(tmp_path)
    yield found
    os.close(found.inotify)


def test_a_file_is_looked_at_once_however_often_it_is_renamed(kinds: Kinds) -> None:
    kinds.rename("s3", 100)
    kinds.rename("x", 100)
    kinds.paths.changed()
    assert kinds.looked == ["s3"]


def test_files_that_come_and_go_cost_a_bounded_share_of_the_processor(
    kinds: Kinds, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At first everything is read at once; then there are pauses, and they grow with what is to be looked at."""
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    pauses = []
    for _ in range(400):
        kinds.rename("x", 1)
        pauses.append(kinds.paths.changed())
        now[0] += pauses[-1]
    assert pauses[0] == 0.0
    assert pauses[-1] == pytest.approx(unix_sockets.READ_COST / unix_sockets.SHARE)
    for number in range(SOCKETS):
        kinds.rename(f"s{number}", 1)
    cost = unix_sockets.READ_COST + SOCKETS * unix_sockets.LOOK_COST
    assert kinds.paths.changed() == pytest.approx(cost / unix_sockets.SHARE)
    assert len(kinds.looked) == SOCKETS


def test_a_paused_descriptor_is_not_served_until_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    loop, now, served = Loop(), [100.0], []
    monkeypatch.setattr(loop, "now", lambda: now[0])
    reading, writing = os.pipe()
    try:
        os.write(writing, b"x")

        def serve(events: int) -> None:
            served.append(events)
            loop.pause(reading, 7.0)

        loop.watch(reading, serve)
        for _ in range(5):
            loop.turn(0)
        assert len(served) == 1
        now[0] += 7.0
        for _ in range(5):
            loop.turn(0)
        assert len(served) == 2
    finally:
        loop.close()
        os.close(reading)
        os.close(writing)
