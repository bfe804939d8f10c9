"""The answer that does not end: events as a stream (SSE), each with its id, so that a reader can resume.

    id: 7                                       sent back as Last-Event-ID by a reader that comes again
    event: worker_exit
    data: {"id": 7, "event": "worker_exit", …}

Invariants: the next event is only asked for when the one before has been taken, so a slow reader holds nothing in
memory. What a reader has missed (it came back too late, was too slow, or the service is a new one) is told by an event
``missed`` before the next one: nothing is skipped silently. A stream with nothing to tell says so every ``HEARTBEAT``.
A reader whose key has been withdrawn is told nothing more: its stream ends at the next event or heartbeat.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from starlette.responses import Response

from .errors import CommandError
from .json_text import encode_json

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from starlette.types import Receive, Scope, Send

HEARTBEAT = 15.0
"""Seconds after which a stream that has nothing to tell says so, which finds out a reader that is gone."""
MOST_STREAMS = 128
"""Streams that are open at the same time; a further reader is answered 503."""


class Streams:
    """The streams that are open."""

    def __init__(self) -> None:
        self.count = 0

    def check(self) -> None:
        """Raise CommandError unavailable when there is room for no other."""
        if self.count >= MOST_STREAMS:
            raise CommandError(
                "unavailable", f"{MOST_STREAMS} readers follow the events already", "Come again when one has left."
            )


class EventStream(Response):
    """Sends *events* until the reader leaves, *closing* is set, or *goes_on* says no. *after*: the id that the reader
    has seen last.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        events: AsyncIterator[dict[str, Any]],
        after: int | None,
        closing: asyncio.Event,
        streams: Streams,
        goes_on: Callable[[], bool] = lambda: True,
    ) -> None:
        super().__init__(headers={"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"})
        del self.headers["content-length"]
        self._events = events
        self._last = after
        self._closing = closing
        self._streams = streams
        self._goes_on = goes_on

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, as an ASGI application."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        if scope["method"] == "HEAD":
            await send({"type": "http.response.body", "body": b""})
            return
        self._streams.count += 1
        try:
            await self._go_on(receive, send)
        finally:
            self._streams.count -= 1

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
        """Return what is to be sent before *event*: nothing, unless there is a gap between it and the last one."""
        last, self._last = self._last, event["id"]
        if last is None or event["id"] == last + 1:
            return ""
        # ids begin anew with each service: one that is not above the last is of another service's life
        count = event["id"] - last - 1 if event["id"] > last else None
        told = {"id": event["id"] - 1, "at": event.get("at"), "service": event.get("service"), "event": "missed"}
        return _lines({**told, "after": last, "count": count})


def _lines(event: dict[str, Any]) -> str:
    name = encode_json(str(event["event"]))[1:-1]  # one line, whatever it is
    return f"id: {event['id']}\nevent: {name}\ndata: {encode_json(event)}\n\n"


async def _next(events: AsyncIterator[dict[str, Any]]) -> dict[str, Any] | None:
    return await anext(events, None)


async def _part(send: Send, text: str) -> None:
    await send({"type": "http.response.body", "body": text.encode(), "more_body": True})


async def _left(receive: Receive) -> None:
    """Return when the reader has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass
