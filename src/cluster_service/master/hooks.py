"""Event handlers: every extension point of a service.

    cservice.on("worker_exit", handler)     call handler(event) for each event of that name; camelCase is accepted
    cservice.on("order_paid", handler)      the same for a custom event, if the handler's parameter is called event
    cservice.on("*", handler)               call handler(event) for every event
    cservice.on("greet", handler)           any other handler defines a command, as @cservice.command
    cservice.disable("exit")                disable a command for all callers

Handlers run in the master, never in a worker. A sync handler has its own thread, in which it may block; an async
handler runs on the master's event loop, where it must not block. Each handler receives its events one at a time and in
order. What it raises is logged and affects nothing else. If it falls behind, its oldest events are dropped.
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

from cluster_service.config.settings_table import canonical
from cluster_service.core.protocol.event_records import EVENTS
from cluster_service.machine import shortage
from cluster_service.wire.framing import name_of

from .custom_command_registry import Extensions
from .user_code import Raised, awaited

if TYPE_CHECKING:
    from collections.abc import Callable

NAMES = frozenset(name_of(event) for event in EVENTS)
"""Names of the built-in events."""
OWN_FIELDS = frozenset(("id", "at", "service", "event", "source", "args", "within"))
"""Fields that every custom event has."""
WAITING = 1000
"""Maximum events queued for one handler."""
SECONDS = 60.0
"""Maximum seconds that an async handler may take for one event."""
TRY_AGAIN = 1.0
"""Seconds until the start of a handler is retried after it failed for lack of a thread or of memory."""


@dataclass(frozen=True)
class Published:
    """An event as passed to handlers. Attributes: its fields, ``id``, ``at`` (ISO 8601), ``service`` and ``event``."""

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
        """Return the event as in the event streams."""
        return {"id": self.id, "at": self.at, "service": self.service, "event": self.event, **self.fields}


class Hooks:
    """The event handlers and commands of a user's program."""

    def __init__(self, extensions: Extensions | None = None) -> None:
        self.extensions = extensions or Extensions()
        self._handlers: dict[str, list[_Handler]] = {}

    def on(self, name: str, handler: Callable[[Published], Any]) -> None:
        """Call *handler* for each event *name* (``worker_exit``, ``workerExit``, ``*``, or a custom event).

        Raises TypeError if *handler* is not callable, and ValueError if *name* resembles the name of a built-in event.
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
        """Pass *event* to its handlers without waiting for them. Call it on the master's event loop."""
        for handler in (*self._handlers.get(event.event, ()), *self._handlers.get("*", ())):
            handler.take(event)

    async def idle(self, seconds: float) -> None:
        """Wait until every handler has processed its events, for at most *seconds*."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        for handler in [handler for handlers in self._handlers.values() for handler in handlers]:
            await handler.idle(until - loop.time())


def hears_events(name: str, handler: Any) -> bool:
    """Return True if *handler* of *name* is for an event rather than a command."""
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
    """A handler and its queued events."""

    def __init__(self, call: Callable[[Published], Any]) -> None:
        self.call = call
        self._waiting: deque[Published] = deque()
        self._lock = threading.Lock()
        self._busy = False
        self._dropped = 0
        self._idle: asyncio.Event | None = None
        """Set once the queue has been processed."""
        self._task: asyncio.Task[None] | None = None
        self._retry: asyncio.TimerHandle | None = None

    @property
    def name(self) -> str:
        """Name of the handler in the log."""
        return str(getattr(self.call, "__qualname__", None) or repr(self.call))

    def take(self, event: Published) -> None:
        """Queue *event* for the handler. Call it on the event loop."""
        with self._lock:
            if len(self._waiting) >= WAITING:
                self._waiting.popleft()
                self._dropped += 1
                if self._dropped == 1:
                    _say(f"the handler {self.name} is {WAITING} events behind: the oldest are dropped")
            self._waiting.append(event)
        self._begin()

    def _begin(self) -> None:
        """Start processing the queue unless that is running already. If it cannot be started, the events stay queued
        and the start is retried.
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
        except Exception as error:  # no thread or memory: it must not stay marked as busy
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
            except Exception as error:  # for example, it takes no argument
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
            except BaseException as error:  # user code may raise anything
                self._failed(event, error)
        try:
            loop.call_soon_threadsafe(idle.set)
        except RuntimeError:
            return  # the master has exited meanwhile

    def _failed(self, event: Published, error: BaseException) -> None:
        with contextlib.suppress(Exception):  # formatting a user's exception runs user code too
            _say(f"the handler {self.name} of {event.event} failed:\n{Raised(error).story()}")

    async def idle(self, seconds: float) -> None:
        """Wait until the queue has been processed, for at most *seconds*."""
        if self._idle is not None:
            try:
                await asyncio.wait_for(self._idle.wait(), max(0.0, seconds))
            except TimeoutError:
                return


def _say(text: str) -> None:
    with contextlib.suppress(OSError, ValueError):
        print(text, file=sys.stderr, flush=True)


HOOKS = Hooks()
"""The handlers and commands registered by the program that calls ``cservice.start``."""
