"""Events from outside, one after the other, over a connection that is opened again when it breaks.

    for event in feed(client): ...        {"id", "at", "service", "event", and its fields}

What was missed while the connection was away is sent by the service when we come back (``Last-Event-ID``); what it does
not remember any more is told by an event ``missed``. The feed ends with CommandError unavailable when the service has.
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
"""Seconds without a word, even a heartbeat, after which a connection is taken for broken."""
PAUSE = 0.2
"""Seconds between two tries to connect."""


def feed(client: Client, after: int | None = None) -> Iterator[dict[str, Any]]:
    """Yield the events after the one with the id *after*; None: those that happen from now on. Raises CommandError."""
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
