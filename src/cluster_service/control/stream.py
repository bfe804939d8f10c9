"""The answer that does not end: events as a stream (SSE), each with its id, so that a reader can resume."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING, Any

from starlette.responses import Response

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.types import Receive, Scope, Send

HEARTBEAT = 15.0
"""Seconds after which a stream that has nothing to tell says so, which finds out a reader that is gone."""


class EventStream(Response):
    """Sends *events* until the reader leaves or *closing* is set.

    The next event is only asked for when the one before has been taken, so a slow reader holds nothing in memory.
    """

    media_type = "text/event-stream"

    def __init__(self, events: AsyncIterator[dict[str, Any]], closing: asyncio.Event) -> None:
        super().__init__(headers={"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"})
        del self.headers["content-length"]
        self._events = events
        self._closing = closing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, as an ASGI application."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        if scope["method"] == "HEAD":
            await send({"type": "http.response.body", "body": b""})
            return
        await _part(send, ": events\n\n")
        ends = [asyncio.ensure_future(_left(receive)), asyncio.ensure_future(self._closing.wait())]
        coming = asyncio.ensure_future(_next(self._events))
        try:
            while not any(end.done() for end in ends):
                await asyncio.wait((coming, *ends), timeout=HEARTBEAT, return_when=asyncio.FIRST_COMPLETED)
                if coming.done():
                    event = coming.result()
                    if event is None:
                        break
                    await _part(
                        send, f"id: {event['id']}\nevent: {event['event']}\ndata: {json.dumps(event, default=str)}\n\n"
                    )
                    coming = asyncio.ensure_future(_next(self._events))
                else:
                    await _part(send, ":\n\n")
        finally:
            for task in (coming, *ends):
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _next(events: AsyncIterator[dict[str, Any]]) -> dict[str, Any] | None:
    return await anext(events, None)


async def _part(send: Send, text: str) -> None:
    await send({"type": "http.response.body", "body": text.encode(), "more_body": True})


async def _left(receive: Receive) -> None:
    """Return when the reader has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass
