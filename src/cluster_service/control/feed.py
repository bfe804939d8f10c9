"""Events of a service, over a connection that is reopened when it breaks.

    for event in feed(client): ...        {"id", "at", "service", "event", and its fields}

After a reconnection the service first sends the events missed meanwhile (``Last-Event-ID``). If it no longer remembers
them, it sends an event ``missed``. The feed raises CommandError unavailable when the service has ended.
"""

from __future__ import annotations

import http.client
import time
from typing import TYPE_CHECKING, Any

from .errors import CommandError
from .place import ENDING, Broken, Lines

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .client import Client

QUIET = 60.0
"""Seconds without data, heartbeats included, after which a connection is considered broken."""
PAUSE = 0.2
"""Seconds between two attempts to connect."""


def feed(client: Client, after: int | None = None) -> Iterator[dict[str, Any]]:
    """Yield the events after the one with id *after*; None: those from now on. Raises CommandError."""
    last = after
    while True:
        try:
            for event in _one_connection(client, last):
                last = event.get("id", last)
                yield event
        except Broken:
            client.place.check_runs()
        except CommandError as error:
            if error.code == "unavailable" and client.place.gone(ENDING):
                client.place.check_runs()
            raise
        time.sleep(PAUSE)


def _one_connection(client: Client, last: int | None) -> Iterator[dict[str, Any]]:
    headers = {} if last is None else {"Last-Event-ID": str(last)}
    with client.open("/api/v1/events", headers, QUIET) as answer:
        lines = Lines()
        try:
            for raw in answer:
                event = lines.event(raw)
                if event is not None:
                    yield event
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise Broken(str(error) or type(error).__name__) from None
