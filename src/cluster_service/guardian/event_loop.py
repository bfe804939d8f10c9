"""The event loop: descriptors and their callbacks. An unexpected exception ends one callback, nothing else."""

from __future__ import annotations

import contextlib
import select
import time
from typing import TYPE_CHECKING

from cluster_service.machine import shortage

if TYPE_CHECKING:
    from collections.abc import Callable

FIRST_PAUSE, LONGEST_PAUSE = 0.02, 1.0
"""Minimum and maximum seconds until the descriptor of a failed handler is watched again; doubled per failure."""


class Watch:
    """One descriptor: its handler, events, and number of consecutive failures."""

    def __init__(self, handler: Callable[[int], None], events: int) -> None:
        self.handler = handler
        self.events = events
        self.failures = 0


class Loop:
    """Descriptors and the handlers to call when they are ready."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._watches: dict[int, Watch] = {}
        self._paused: dict[int, float] = {}
        """Descriptors temporarily removed from the epoll set, and when to add them again."""
        self.on_fault: Callable[[Exception, str], None] = lambda _error, _where: None

    def now(self) -> float:
        """Return the monotonic time in seconds."""
        return time.monotonic()

    def watch(self, descriptor: int, handler: Callable[[int], None], events: int = select.EPOLLIN) -> None:
        """Call *handler* with the events on any of *events* (default: readable), an error or a hang-up."""
        self._paused.pop(descriptor, None)
        watch = self._watches[descriptor] = Watch(handler, events)
        self._register(descriptor, watch)

    def change(self, descriptor: int, events: int) -> None:
        """Change the events awaited on a descriptor; no effect if it is not watched."""
        watch = self._watches.get(descriptor)
        if watch is None:
            return
        watch.events = events
        if descriptor not in self._paused:
            self._epoll.modify(descriptor, events)

    def drop(self, descriptor: int) -> None:
        """Stop watching. Call this before closing the descriptor."""
        watched = self._watches.pop(descriptor, None) is not None
        if watched and self._paused.pop(descriptor, None) is None:
            self._epoll.unregister(descriptor)

    def pause(self, descriptor: int, seconds: float) -> None:
        """Ignore *descriptor* for some seconds (0: continue); no effect if it is not watched."""
        if seconds > 0.0 and descriptor in self._watches:
            self._paused[descriptor] = self.now() + seconds
            with contextlib.suppress(OSError):  # it is not in the set
                self._epoll.unregister(descriptor)

    def close(self) -> None:
        """Stop watching all descriptors."""
        self._watches.clear()
        self._paused.clear()
        self._epoll.close()

    def turn(self, seconds: float | None) -> None:
        """Wait for at most *seconds* (None: without limit) and handle ready descriptors."""
        for descriptor, at in list(self._paused.items()):
            if self.now() >= at:
                del self._paused[descriptor]
                self._register(descriptor, self._watches[descriptor])
        if self._paused:
            pause = max(0.0, min(self._paused.values()) - self.now())
            seconds = pause if seconds is None else min(seconds, pause)
        for descriptor, events in self._epoll.poll(seconds):
            watch = self._watches.get(descriptor)
            if watch is None:  # dropped by an earlier handler in this iteration
                continue
            try:
                watch.handler(events)
            except Exception as error:  # the guardian must continue, whatever the error
                self._fail(descriptor, watch, error)
            else:
                watch.failures = 0

    def _register(self, descriptor: int, watch: Watch) -> None:
        """Add *descriptor* to the epoll set. If the kernel is short of resources, retry later."""
        try:
            self._epoll.register(descriptor, watch.events)
        except OSError as error:
            if not shortage.is_one(error):
                del self._watches[descriptor]
                raise
            self._fail(descriptor, watch, error)

    def _fail(self, descriptor: int, watch: Watch, error: Exception) -> None:
        """Report *error* and ignore *descriptor* for a while, unless its handler has dropped it."""
        if self._watches.get(descriptor) is watch:
            self.pause(descriptor, min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(watch.failures, 10)))
            watch.failures += 1
        self.on_fault(error, f"at descriptor {descriptor}, {watch.handler.__qualname__}")


_REPEAT_SECONDS = 10.0
"""Seconds in which the same fault is logged at most once."""
_MAX_REMEMBERED = 100


class Faults:
    """Log of unexpected exceptions, and runner of steps that must all be attempted even if some of them fail."""

    def __init__(self, log: Callable[[str], None], now: Callable[[], float]) -> None:
        self._log = log
        self._now = now
        self._logged: dict[str, float] = {}

    def run(self, where: str, *steps: Callable[[], object]) -> None:
        """Run every step, in order. An exception is logged with *where* and aborts only its own step."""
        for step in steps:
            try:
                step()
            except Exception as error:  # the next step must run
                self.report(error, where)

    def report(self, error: Exception, where: str = "") -> None:
        """Log *error*. Raises no exception, even if logging fails for lack of memory or descriptors."""
        with contextlib.suppress(Exception):
            short = shortage.is_one(error)
            key = "shortage" if short else f"{where} {error!r}"[:500]
            now = self._now()
            if now - self._logged.get(key, -_REPEAT_SECONDS) < _REPEAT_SECONDS:
                return
            place = f" ({where})" if where else ""
            if short:
                self._log(f"the guardian could not do something, and tries again: {shortage.explain(error)}{place}")
            else:
                self._log(f"a fault in the guardian, which goes on{place}: {_shown(error)}")
            if len(self._logged) >= _MAX_REMEMBERED:
                self._logged.clear()
            self._logged[key] = now


def _shown(error: Exception) -> str:
    try:
        import traceback  # saves memory: faults are rare

        return "".join(traceback.format_exception(error))
    except (OSError, ImportError):  # the module's file can no longer be read
        return repr(error)
