"""The event stream (SSE). Each event has an id, so that a reader can resume.

    id: 7                                       sent back as Last-Event-ID when the reader reconnects
    event: worker_exit
    data: {"id": 7, "event": "worker_exit", …}

Invariants: the next event is requested only after the previous one was written, so a slow reader uses no memory. If a
reader has missed events (it reconnected too late, was too slow, or the service was restarted), an event ``missed``
precedes the next one: nothing is skipped silently. A stream without events sends a comment every ``HEARTBEAT`` seconds.
If the key of a reader is withdrawn, its stream ends at the next event or heartbeat.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from typing import TYPE_CHECKING, Any

from starlette.responses import Response

from cluster_service.commands.json_text import encode_json
from cluster_service.errors import CommandError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from starlette.types import Receive, Scope, Send

HEARTBEAT = 15.0
"""Seconds after which an idle stream sends a comment, to detect a reader that has gone."""
MOST_STREAMS = 128
"""Maximum number of open streams of one key, and of the owner; further requests are answered 503."""


class Streams:
    """The number of open streams of each key, so that the readers of one key take no place from others."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def check(self, key: str) -> None:
        """Raise CommandError unavailable if *key* has the maximum."""
        if self._counts[key] >= MOST_STREAMS:
            raise CommandError(
                "unavailable", f"{MOST_STREAMS} readers follow the events already", "Come again when one has left."
            )

    @contextlib.contextmanager
    def count(self, key: str) -> Iterator[None]:
        """Count a stream of *key* while the block runs."""
        self._counts[key] += 1
        try:
            yield
        finally:
            self._counts[key] -= 1
            self._counts += Counter()  # drops what is 0


class EventStream(Response):
    """Sends *events* until the reader disconnects, *closing* is set, or *goes_on* returns False.

    *after*: the id of the last event that the reader has received. *counted*: counts the stream while it is open.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        events: AsyncIterator[dict[str, Any]],
        after: int | None,
        closing: asyncio.Event,
        counted: contextlib.AbstractContextManager[None],
        goes_on: Callable[[], bool] = lambda: True,
    ) -> None:
        super().__init__(headers={"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"})
        del self.headers["content-length"]
        self._events = events
        self._last = after
        self._closing = closing
        self._counted = counted
        self._goes_on = goes_on

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response, as an ASGI application."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        if scope["method"] == "HEAD":
            await send({"type": "http.response.body", "body": b""})
            return
        with self._counted:
            await self._go_on(receive, send)

    async def _go_on(self, receive: Receive, send: Send) -> None:
        await _part(send, ": events\n\n")
        ends = [asyncio.ensure_future(_left(receive)), asyncio.ensure_future(self._closing.wait())]
        coming = asyncio.ensure_future(_next(self._events))
        try:
            while not any(end.done() for end in ends):
                await asyncio.wait((coming, *ends), timeout=HEARTBEAT, return_when=asyncio.FIRST_COMPLETED)
                if not self._goes_on():
                    break
                if coming.done():
                    event = coming.result()
                    if event is None:
                        break
                    await _part(send, self._missed(event) + _lines(event))
                    coming = asyncio.ensure_future(_next(self._events))
                else:
                    await _part(send, ":\n\n")
        finally:
            for task in (coming, *ends):
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _missed(self, event: dict[str, Any]) -> str:
        """Return an event ``missed`` if events are missing between the last event and *event*; else an empty string."""
        last, self._last = self._last, event["id"]
        if last is None or event["id"] == last + 1:
            return ""
        # ids restart with each service: an id not larger than the last one is from another run of the service
        count = event["id"] - last - 1 if event["id"] > last else None
        told = {"id": event["id"] - 1, "at": event.get("at"), "service": event.get("service"), "event": "missed"}
        return _lines({**told, "after": last, "count": count})


def _lines(event: dict[str, Any]) -> str:
    name = encode_json(str(event["event"]))[1:-1]  # always one line
    return f"id: {event['id']}\nevent: {name}\ndata: {encode_json(event)}\n\n"


async def _next(events: AsyncIterator[dict[str, Any]]) -> dict[str, Any] | None:
    return await anext(events, None)


async def _part(send: Send, text: str) -> None:
    await send({"type": "http.response.body", "body": text.encode(), "more_body": True})


async def _left(receive: Receive) -> None:
    """Wait until the reader has disconnected."""
    while (await receive())["type"] != "http.disconnect":
        pass
