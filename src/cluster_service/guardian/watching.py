"""Descriptors, and what is done when they are ready.

A handler that fails does not cost the descriptor: the fault is reported, and the descriptor is watched again after a
pause that grows as long as the handler fails. So no channel, pipe or listener is ever lost in silence, and none that
fails each time keeps the guardian from the others.
"""

from __future__ import annotations

import contextlib
import select
import time
from typing import TYPE_CHECKING

from cluster_service.machine import shortage

if TYPE_CHECKING:
    from collections.abc import Callable

FIRST_PAUSE, LONGEST_PAUSE = 0.02, 1.0
"""Seconds until the descriptor of a handler that failed is watched again; doubled each time that it fails."""


class Watch:
    """One descriptor: who is called, for which events, and how often in a row that has failed."""

    def __init__(self, handler: Callable[[int], None], events: int) -> None:
        self.handler = handler
        self.events = events
        self.failures = 0


class Loop:
    """Descriptors and what is done when they are ready."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._watches: dict[int, Watch] = {}
        self._paused: dict[int, float] = {}
        """Descriptors that are not in the epoll set at present, and when they will be again."""
        self.on_fault: Callable[[Exception, str], None] = lambda _error, _where: None

    def now(self) -> float:
        """Return the machine's monotonic time, in seconds."""
        return time.monotonic()

    def watch(self, descriptor: int, handler: Callable[[int], None], events: int = select.EPOLLIN) -> None:
        """Call *handler* with the events whenever there are any of *events* (readable), an error or a hang-up."""
        self._paused.pop(descriptor, None)
        watch = self._watches[descriptor] = Watch(handler, events)
        self._register(descriptor, watch)

    def change(self, descriptor: int, events: int) -> None:
        """Wait for other events on a descriptor; nothing happens when it is not watched."""
        watch = self._watches.get(descriptor)
        if watch is None:
            return
        watch.events = events
        if descriptor not in self._paused:
            self._epoll.modify(descriptor, events)

    def drop(self, descriptor: int) -> None:
        """Watch no longer. To be called before the descriptor is closed."""
        watched = self._watches.pop(descriptor, None) is not None
        if watched and self._paused.pop(descriptor, None) is None:
            self._epoll.unregister(descriptor)

    def pause(self, descriptor: int, seconds: float) -> None:
        """Do not look at *descriptor* for a while (0: go on); nothing happens when it is not watched."""
        if seconds > 0.0 and descriptor in self._watches:
            self._paused[descriptor] = self.now() + seconds
            with contextlib.suppress(OSError):  # it is not in the set
                self._epoll.unregister(descriptor)

    def close(self) -> None:
        """Watch nothing any more."""
        self._watches.clear()
        self._paused.clear()
        self._epoll.close()

    def turn(self, seconds: float | None) -> None:
        """Wait for *seconds* at most (None: as long as it takes) and serve what is ready."""
        for descriptor, at in list(self._paused.items()):
            if self.now() >= at:
                del self._paused[descriptor]
                self._register(descriptor, self._watches[descriptor])
        if self._paused:
            pause = max(0.0, min(self._paused.values()) - self.now())
            seconds = pause if seconds is None else min(seconds, pause)
        for descriptor, events in self._epoll.poll(seconds):
            watch = self._watches.get(descriptor)
            if watch is None:  # dropped by a handler before it in this turn
                continue
            try:
                watch.handler(events)
            except Exception as error:  # noqa: BLE001 - whatever it is, the guardian goes on
                self._fail(descriptor, watch, error)
            else:
                watch.failures = 0

    def _register(self, descriptor: int, watch: Watch) -> None:
        """Put *descriptor* into the epoll set. If there is too little of something, that is tried again."""
        try:
            self._epoll.register(descriptor, watch.events)
        except OSError as error:
            if not shortage.is_one(error):
                del self._watches[descriptor]
                raise
            self._fail(descriptor, watch, error)

    def _fail(self, descriptor: int, watch: Watch, error: Exception) -> None:
        """Report *error*, and do not look at *descriptor* for a while, unless its handler has dropped it."""
        if self._watches.get(descriptor) is watch:
            self.pause(descriptor, min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(watch.failures, 10)))
            watch.failures += 1
        self.on_fault(error, f"at descriptor {descriptor}, {watch.handler.__qualname__}")
