"""Wrappers around an ASGI or WSGI app: they count its answers, and end those that do not end by themselves.

A stop cannot wait for WebSockets and event streams. When the worker stops, a WebSocket is closed with code 1001 ("going
away", RFC 6455, section 7.4.1), and an event stream is ended as if the app had ended it; its client reconnects, as
EventSource does by itself (https://html.spec.whatwg.org/multipage/server-sent-events.html). The app then has ``GRACE``
seconds to notice; after that its task for this client is cancelled. A task that does not end even then (because of a
blocked thread, for example) is *abandoned*: the stop no longer waits for it. All other answers are left to finish.

This code sits between server and app, and is the same for every server. A WSGI app can neither be notified nor
cancelled: its stream ends with the next event after the worker was asked to stop.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Optional, Set, Tuple

from .drains.open_connections import is_endless
from .heartbeat import AnyioPool
from .unpatched import allocate_lock, time

if TYPE_CHECKING:
    from .heartbeat import Heartbeat

GRACE = 1.0
"""Seconds for an app to notice that its client has gone, and again to end when it is cancelled."""

GOING_AWAY = 1001


class Stream:
    """One WebSocket or event stream, and the task that serves it."""

    def __init__(
        self,
        task: Optional[asyncio.Task[Any]],
        send: Callable[..., Any],
        *,
        websocket: bool,
        cancel_first: bool = False,
    ) -> None:
        self.task = task
        self.loop = asyncio.get_running_loop()
        self.send = send
        self.websocket = websocket
        self.cancel_first = cancel_first
        self.ended = False
        self.cancelled = False
        self.ending: Optional[asyncio.Task[None]] = None

    async def end(self) -> None:
        """Send the end to the client; then ensure that the app's task ends."""
        if self.ended:
            return
        self.ended = True
        if not (self.websocket and self.cancel_first):
            await self.send_end()
            await self._task_ended()
        if self.task is not None and not self.task.done():
            self.cancelled = True
            self.task.cancel()
            await self._task_ended()

    async def _task_ended(self) -> None:
        if self.task is not None and not self.task.done():
            await asyncio.wait({self.task}, timeout=GRACE)

    async def send_end(self) -> None:
        """Send the end to the client."""
        close: Dict[str, Any] = {"type": "websocket.close", "code": GOING_AWAY}
        if not self.websocket:
            close = {"type": "http.response.body", "body": b"", "more_body": False}
        try:
            await asyncio.wait_for(self.send(close), GRACE)
        except Exception:  # noqa: BLE001, S110 - the client has already gone
            pass


class Streams:
    """The open streams of this process.

    *cancel_first*: the server cannot close a WebSocket while the app waits to receive from it (granian).
    """

    def __init__(self, *, cancel_first: bool = False) -> None:
        self._cancel_first = cancel_first
        self._open: Set[Stream] = set()
        self._ending = False
        self._cancelled = False

    async def http(self, app: Callable[..., Any], scope: Dict[str, Any], receive: Any, send: Any) -> None:
        """Call *app* for one request, and track its answer if it is an event stream."""
        stream: Optional[Stream] = None
        task, method = asyncio.current_task(), scope["method"]

        def watching(message: Dict[str, Any]) -> Any:
            nonlocal stream
            if message["type"] == "http.response.start" and is_endless(method, message.get("headers")):
                stream = Stream(task, send, websocket=False)
                self._add(stream)
            if stream is not None and stream.ended:
                return _nothing()
            return send(message)

        try:
            await app(scope, receive, watching)
        except asyncio.CancelledError:
            if stream is None or not stream.cancelled:
                raise
        finally:
            if stream is not None:
                self._remove(stream)

    async def websocket(self, app: Callable[..., Any], scope: Dict[str, Any], receive: Any, send: Any) -> None:
        """Call *app* for one WebSocket."""
        stream = Stream(asyncio.current_task(), send, websocket=True, cancel_first=self._cancel_first)

        async def watching(message: Dict[str, Any]) -> None:
            if stream.ended:
                return
            await send(message)
            if message["type"] == "websocket.accept":
                self._add(stream)

        try:
            await app(scope, receive, watching)
        except asyncio.CancelledError:
            if not stream.cancelled:
                raise
            if self._cancel_first:
                await stream.send_end()
        finally:
            self._remove(stream)

    def _add(self, stream: Stream) -> None:
        self._open.add(stream)
        if self._ending:
            stream.loop.call_soon(_begin, stream)

    def _remove(self, stream: Stream) -> None:
        self._open.discard(stream)
        self._cancelled = self._cancelled or stream.cancelled

    def end(self) -> None:
        """End all open streams, and from now on each new one. Thread-safe."""
        self._ending = True
        for stream in list(self._open):
            stream.loop.call_soon_threadsafe(_begin, stream)

    async def ended(self) -> None:
        """Wait until each stream has ended or is abandoned. Call it in the loop of the streams."""
        endings = [stream.ending for stream in self._open if stream.ending is not None]
        if endings:
            await asyncio.wait(endings, timeout=3 * GRACE)

    def await_end(self, deadline: float) -> None:
        """Wait until each stream has ended or is abandoned, at most until *deadline* (``time.monotonic()``).

        Do not call it in the thread of their loop.
        """
        deadline = min(deadline, time.monotonic() + 3 * GRACE)
        never = allocate_lock()
        never.acquire()
        while self._open and time.monotonic() < deadline:
            never.acquire(timeout=0.01)

    @property
    def abandoned(self) -> Set[Any]:
        """The tasks that did not end; valid after ``ended`` or ``await_end``."""
        return {stream.task for stream in self._open if stream.cancelled}

    @property
    def cancelled(self) -> bool:
        """True if a task of the app was cancelled: one of its threads may continue."""
        return self._cancelled or bool(self.abandoned)


def _begin(stream: Stream) -> None:
    stream.ending = stream.loop.create_task(stream.end())  # stored, or it might be garbage-collected


async def _nothing() -> None:
    """Replaces a send to a client that has gone."""


def end_wsgi_streams(app: Callable[..., Any], stopping: Callable[[], bool]) -> Callable[..., Any]:
    """Return the WSGI app *app*, wrapped to end event streams at their next event while *stopping* returns True."""

    def ending(environ: Dict[str, Any], start_response: Any) -> Any:
        never_ends = False

        def watching(status: str, headers: List[Tuple[str, str]], *exc_info: Any) -> Any:
            nonlocal never_ends
            never_ends = is_endless(environ["REQUEST_METHOD"], headers)
            return start_response(status, headers, *exc_info)

        body = app(environ, watching)
        file_wrapper = environ.get("wsgi.file_wrapper")
        finite = (list, tuple, bytes, file_wrapper) if isinstance(file_wrapper, type) else (list, tuple, bytes)
        if isinstance(body, finite):
            return body  # some servers have a faster path for it
        return _Body(body, lambda: never_ends and stopping())

    return ending


class _Body:
    """The parts of a WSGI answer, until *over* returns True."""

    def __init__(self, body: Any, over: Callable[[], bool]) -> None:
        self._body = body
        self._parts = iter(body)
        self._over = over

    def __iter__(self) -> _Body:
        return self

    def __next__(self) -> Any:
        part = next(self._parts)
        if self._over():
            raise StopIteration
        return part

    def close(self) -> None:
        """Close the answer, as WSGI requires."""
        close = getattr(self._body, "close", None)
        if close is not None:
            close()


def count_asgi_answers(app: Callable[..., Any], heartbeat: Heartbeat, streams: Streams) -> Callable[..., Any]:
    """Return the ASGI 3 app *app*, wrapped to count its answers and track its *streams*.

    An app that is already wrapped is returned unchanged.
    """
    if getattr(app, "cservice_counts", False):
        return app
    pool = AnyioPool()
    heartbeat.add_pool(pool.is_stuck)

    async def counted(scope: Dict[str, Any], receive: Any, send: Any) -> None:
        pool.find()
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await streams.websocket(app, scope, receive, send)
            else:
                await app(scope, receive, send)
            return
        begun = False

        def noting(message: Dict[str, Any]) -> Any:
            nonlocal begun
            if not begun and message["type"] == "http.response.start":
                begun = True
                heartbeat.count_answer(message["status"])
            return send(message)

        try:
            await streams.http(app, scope, receive, noting)
        except Exception:
            if not begun:
                heartbeat.count_answer(500)  # the answer that the server will send
            raise
        if not begun and getattr(getattr(send, "__self__", None), "disconnected", True) is False:
            heartbeat.count_answer(500)  # uvicorn's answer if an app sends none while the client is connected

    counted.cservice_counts = True  # type: ignore[attr-defined]
    return counted


def count_wsgi_answers(app: Callable[..., Any], heartbeat: Heartbeat) -> Callable[..., Any]:
    """Return the WSGI app *app*, wrapped to count its answers."""

    def counted(environ: Dict[str, Any], start_response: Any) -> Any:
        begun = False

        def noting(status: str, headers: List[Tuple[str, str]], *exc_info: Any) -> Any:
            nonlocal begun
            if not begun:
                begun = True
                heartbeat.count_answer(int(status[:3]) if status[:3].isdigit() else 0)
            return start_response(status, headers, *exc_info)

        try:
            return app(environ, noting)
        except Exception:
            if not begun:
                heartbeat.count_answer(500)
            raise

    return counted
