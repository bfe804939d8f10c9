"""Every extension point of a service, in one file.

    cservice.on("worker_exit", handler)     handler(event) for each event of that name; camelCase is the same name
    cservice.on("order_paid", handler)      the same for an event of the program's own, if its argument is called event
    cservice.on("*", handler)               for every event
    cservice.on("greet", handler)           a command (``extensions``), for any other handler: also @cservice.command
    cservice.disable("exit")                nobody may give that command any more

Handlers run in the master, never in a worker. A sync one has a thread of its own, in which it may block; an async one
runs on the master's loop, where it must not. Each is given its events one after the other, in their order; what it
raises is written to the log and harms nothing; of one that falls behind, the oldest events are dropped.
"""

from __future__ import annotations

import asyncio
import contextlib
import difflib
import inspect
import sys
import threading
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cluster_service.config.table import canonical
from cluster_service.core.events import EVENTS
from cluster_service.machine import shortage
from cluster_service.wire.records import name_of

from .extensions import Extensions
from .handlers import Raised, awaited

if TYPE_CHECKING:
    from collections.abc import Callable

NAMES = frozenset(name_of(event) for event in EVENTS)
"""The events that there are, by name."""
OWN_FIELDS = frozenset(("id", "at", "service", "event", "source", "args", "within"))
"""What every custom event has by itself."""
WAITING = 1000
"""Events that may wait for one handler."""
SECONDS = 60.0
"""How long an async handler may take for one event."""
TRY_AGAIN = 1.0
"""Seconds until a handler is started again that could not be: there was no thread, or no memory, for it."""


@dataclass(frozen=True)
class Published:
    """An event as handlers see it: its fields as attributes, and ``id``, ``at`` (ISO 8601), ``service``, ``event``."""

    id: int
    at: str
    service: str
    event: str
    fields: dict[str, Any]

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["fields"][name]
        except KeyError:
            raise AttributeError(f"the event {self.event} has no {name!r}, only {', '.join(self.fields)}") from None

    def to_json(self) -> dict[str, Any]:
        """As streams carry it."""
        return {"id": self.id, "at": self.at, "service": self.service, "event": self.event, **self.fields}


class Hooks:
    """The handlers of a user's program, by event; and its commands."""

    def __init__(self, extensions: Extensions | None = None) -> None:
        self.extensions = extensions or Extensions()
        self._handlers: dict[str, list[_Handler]] = {}

    def on(self, name: str, handler: Callable[[Published], Any]) -> None:
        """Call *handler* for each event *name* (``worker_exit``, ``workerExit``, ``*``, or one of the program's own).

        Raises TypeError, and ValueError for a name that is nearly that of an event.
        """
        if not callable(handler):
            raise TypeError(f"the handler of {name!r} must be callable, not {type(handler).__name__}")
        known = canonical(name)
        if known != "*" and known not in NAMES:
            near = difflib.get_close_matches(known, NAMES, n=1, cutoff=0.85)
            if near:
                raise ValueError(f"there is no event {name!r}: did you mean {near[0]!r}? (there are: {_listed()})")
        self._handlers.setdefault(known, []).append(_Handler(handler))

    def fire(self, event: Published) -> None:
        """Hand *event* to its handlers; nothing is waited for. To be called on the master's loop."""
        for handler in (*self._handlers.get(event.event, ()), *self._handlers.get("*", ())):
            handler.take(event)

    async def idle(self, seconds: float) -> None:
        """Wait until every handler has had its events, for *seconds* at most."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        for handler in [handler for handlers in self._handlers.values() for handler in handlers]:
            await handler.idle(until - loop.time())


def hears_events(name: str, handler: Any) -> bool:
    """Whether *handler* of *name* is for an event, rather than a command."""
    if name == "*" or canonical(name) in NAMES:
        return True
    try:
        first = next(iter(inspect.signature(handler).parameters), "")
    except (TypeError, ValueError):
        return False
    return first in ("event", "_event")


def _listed() -> str:
    return ", ".join(sorted(NAMES))


class _Handler:
    """A handler and the events that wait for it."""

    def __init__(self, call: Callable[[Published], Any]) -> None:
        self.call = call
        self._waiting: deque[Published] = deque()
        self._lock = threading.Lock()
        self._busy = False
        self._dropped = 0
        self._idle: asyncio.Event | None = None
        """Set once it has had its events."""
        self._task: asyncio.Task[None] | None = None
        self._retry: asyncio.TimerHandle | None = None

    @property
    def name(self) -> str:
        """How the log names it."""
        return str(getattr(self.call, "__qualname__", None) or repr(self.call))

    def take(self, event: Published) -> None:
        """Have it called for *event*, soon. On the loop."""
        with self._lock:
            if len(self._waiting) >= WAITING:
                self._waiting.popleft()
                self._dropped += 1
                if self._dropped == 1:
                    _say(f"the handler {self.name} is {WAITING} events behind: the oldest are dropped")
            self._waiting.append(event)
        self._begin()

    def _begin(self) -> None:
        """Have it called for the events that wait, unless it is being called already. Where that cannot be begun, they
        wait on, and it is tried again.
        """
        loop = asyncio.get_running_loop()
        with self._lock:
            if self._busy or not self._waiting:
                return
            self._busy = True
        if self._idle is None or self._idle.is_set():
            self._idle = asyncio.Event()
        try:
            if inspect.iscoroutinefunction(self.call):
                self._begin_on_loop(loop, self._idle)
            else:
                args = (loop, self._idle)
                threading.Thread(target=self._in_thread, args=args, name="cservice events", daemon=True).start()
        except Exception as error:  # noqa: BLE001 - no thread, no memory: it must not count as busy for ever
            with self._lock:
                self._busy = False
            self._try_again(loop, error)
        else:
            self._stop_trying()

    def _begin_on_loop(self, loop: asyncio.AbstractEventLoop, idle: asyncio.Event) -> None:
        work = self._on_loop(idle)
        try:
            self._task = loop.create_task(work)
        except BaseException:
            work.close()
            raise

    def _try_again(self, loop: asyncio.AbstractEventLoop, error: Exception) -> None:
        if self._retry is None:
            _say(f"the handler {self.name} was not started: {shortage.explain(error)}; its events wait")
        else:
            self._retry.cancel()
        self._retry = loop.call_later(TRY_AGAIN, self._begin)

    def _stop_trying(self) -> None:
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None

    def _next(self) -> Published | None:
        with self._lock:
            if self._waiting:
                return self._waiting.popleft()
            self._busy = False
            return None

    async def _on_loop(self, idle: asyncio.Event) -> None:
        while (event := self._next()) is not None:
            try:
                await self._await(event, self.call(event))
            except Exception as error:  # noqa: BLE001 - it does not take an event, say
                self._failed(event, error)
        idle.set()

    async def _await(self, event: Published, result: Any) -> None:
        task = asyncio.ensure_future(awaited(result))
        await asyncio.wait((task,), timeout=SECONDS)
        if not task.done():
            task.cancel()
            _say(f"the handler {self.name} of {event.event} has not ended within {SECONDS:g} s")
            return
        _, error = task.result()
        if error is not None:
            self._failed(event, error)

    def _in_thread(self, loop: asyncio.AbstractEventLoop, idle: asyncio.Event) -> None:
        while (event := self._next()) is not None:
            try:
                result = self.call(event)
                if inspect.isawaitable(result):
                    asyncio.run_coroutine_threadsafe(self._await(event, result), loop).result()
            except BaseException as error:  # noqa: BLE001 - whatever a user's code raises
                self._failed(event, error)
        try:
            loop.call_soon_threadsafe(idle.set)
        except RuntimeError:
            return  # the master has ended meanwhile

    def _failed(self, event: Published, error: BaseException) -> None:
        with contextlib.suppress(Exception):  # what a user's exception says of itself is their code too
            _say(f"the handler {self.name} of {event.event} failed:\n{Raised(error).story()}")

    async def idle(self, seconds: float) -> None:
        """Wait until it has had its events."""
        if self._idle is not None:
            try:
                await asyncio.wait_for(self._idle.wait(), max(0.0, seconds))
            except TimeoutError:
                return


def _say(text: str) -> None:
    with contextlib.suppress(OSError, ValueError):
        print(text, file=sys.stderr, flush=True)  # noqa: T201


HOOKS = Hooks()
"""The handlers and commands registered by the program that calls ``cservice.start``."""
