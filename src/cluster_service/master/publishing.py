"""The events of a service as they leave the core: numbered, remembered, and told to the log, the hooks and the streams.

Numbers go on from master to master: the last one is in the notebook before the event is told.
"""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Any

from cluster_service.core.views import iso
from cluster_service.wire.records import name_of

from . import narrator
from .hooks import Published

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cluster_service.core import events

    from .hooks import Hooks

HISTORY = 1000
"""Events remembered for streams that resume."""


class Publisher:
    """The events of the service *name*."""

    def __init__(self, name: str, hooks: Hooks, log: Callable[[str], None]) -> None:
        self._name = name
        self._hooks = hooks
        self._log = log
        self.last = 0
        """The number given last."""
        self.history: deque[Published] = deque(maxlen=HISTORY)

    def number(self, count: int) -> Iterator[int]:
        """Return the numbers of the next *count* events."""
        first, self.last = self.last + 1, self.last + count
        return iter(range(first, self.last + 1))

    def publish(self, number: int, event: events.Event) -> None:
        """Tell of an event of the core's."""
        self.tell(number, name_of(type(event)), dict(vars(event)), narrator.line(event))

    def tell(self, number: int, name: str, fields: dict[str, Any], line: str | None) -> None:
        """Tell of any event. *line*: its line in the log, or None for one that is not worth a line."""
        told = Published(number, iso(time.time()), self._name, name, fields)
        self.history.append(told)
        if line is not None:
            self._log(line)
        self._hooks.fire(told)
