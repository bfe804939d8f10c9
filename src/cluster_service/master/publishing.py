"""Publication of events: number them, keep a history, and pass them to the log, the hooks and the streams.

Numbers continue from master to master: the checkpoint records the last number before the event is published.
"""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Any

from cluster_service.core.readout.serializers import iso_timestamp
from cluster_service.wire.records import name_of

from . import narrator
from .hooks import Published

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cluster_service.core.protocol import event_records

    from .hooks import Hooks

HISTORY = 1000
"""Number of events kept for streams that resume."""


class Publisher:
    """The events of the service *name*."""

    def __init__(self, name: str, hooks: Hooks, log: Callable[[str], None]) -> None:
        self._name = name
        self._hooks = hooks
        self._log = log
        self.last = 0
        """The last number assigned."""
        self.history: deque[Published] = deque(maxlen=HISTORY)

    def number(self, count: int) -> Iterator[int]:
        """Return the numbers of the next *count* events."""
        first, self.last = self.last + 1, self.last + count
        return iter(range(first, self.last + 1))

    def publish(self, number: int, event: event_records.Event) -> None:
        """Publish an event of the core."""
        self.tell(number, name_of(type(event)), dict(vars(event)), narrator.line(event))

    def tell(self, number: int, name: str, fields: dict[str, Any], line: str | None) -> None:
        """Publish an event. *line*: its line in the log, or None if it is not logged."""
        told = Published(number, iso_timestamp(time.time()), self._name, name, fields)
        self.history.append(told)
        if line is not None:
            self._log(line)
        self._hooks.fire(told)
