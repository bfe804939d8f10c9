"""Every extension point of a service, in one file.

    cservice.on("worker_exit", handler)     handler(event) for each event of that name; camelCase is the same name
    cservice.on("*", handler)               for every event

Handlers are sync (run in a thread, so they may block) or async (run on the master's loop, so they must not). What a
handler raises is written to the log and harms nothing. They run in the master, never in a worker.
"""

from __future__ import annotations

import asyncio
import inspect
import re
import sys
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cluster_service.core.events import EVENTS
from cluster_service.wire.records import name_of

if TYPE_CHECKING:
    from collections.abc import Callable

NAMES = frozenset(name_of(event) for event in EVENTS)
"""The events that there are, by name."""


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
            return self.fields[name]
        except KeyError:
            raise AttributeError(f"the event {self.event} has no {name!r}, only {', '.join(self.fields)}") from None

    def to_json(self) -> dict[str, Any]:
        """As streams carry it."""
        return {"id": self.id, "at": self.at, "service": self.service, "event": self.event, **self.fields}


class Hooks:
    """The handlers of a user's program, by event."""

    def __init__(self) -> None:
        self._handlers: dict[str, list[Callable[[Published], Any]]] = {}
        self._tasks: set[asyncio.Future[Any]] = set()

    def on(self, name: str, handler: Callable[[Published], Any]) -> None:
        """Call *handler* for each event *name* (``worker_exit``, ``workerExit``, ``*``). Raises ValueError."""
        known = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
        if known != "*" and known not in NAMES:
            raise ValueError(f"there is no event {name!r}; there are: {', '.join(sorted(NAMES))}")
        if not callable(handler):
            raise TypeError(f"the handler of {name!r} must be callable, not {type(handler).__name__}")
        self._handlers.setdefault(known, []).append(handler)

    def fire(self, event: Published) -> None:
        """Start the handlers of *event*; nothing is waited for. To be called on the master's loop."""
        for handler in (*self._handlers.get(event.event, ()), *self._handlers.get("*", ())):
            task = asyncio.ensure_future(_call(handler, event))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)


async def _call(handler: Callable[[Published], Any], event: Published) -> None:
    try:
        if inspect.iscoroutinefunction(handler):
            await handler(event)
            return
        result = await asyncio.to_thread(handler, event)
        if inspect.isawaitable(result):
            await result
    except Exception:  # noqa: BLE001 - whatever a user's code raises
        name = getattr(handler, "__qualname__", repr(handler))
        print(f"the handler {name} of {event.event} failed:\n{traceback.format_exc()}", file=sys.stderr, flush=True)  # noqa: T201


HOOKS = Hooks()
"""The handlers registered by the program that calls ``cservice.start``."""
