"""aiohttp, Tornado and waitress: tracking of their connections, and ``Connection: close`` once the worker stops.

- aiohttp: ``web.run_app`` handles SIGTERM itself. It closes every connection without a request in progress, even if a
  request is on its way, and then waits for the requests. So the connections are settled first (``program_handlers``):
  the runtime waits for those that may still bring a request, and for uploads. Other busy connections, including
  WebSockets, are left to aiohttp. A program that runs an ``AppRunner`` without a signal handler is drained like others.
- Tornado: a WebSocket is detached from the server at its handshake, and so is not included.
- waitress: its loop reads a request, and a thread answers it; both share the connections.
"""

from __future__ import annotations

import functools
from math import inf as infinity
from typing import TYPE_CHECKING, Any, List

from ..unpatched import running_loop
from .open_connections import connections, is_endless, tracked

if TYPE_CHECKING:
    from types import ModuleType

    from ..runtime import Runtime

_SWITCHING = 101


class Peer:
    """The socket of a transport, valid while the transport is open."""

    def __init__(self, transport: Any) -> None:
        self._transport = transport

    def fileno(self) -> int:
        """Return its descriptor; -1 if it is closed."""
        return -1 if self._transport.is_closing() else int(self._transport.get_extra_info("socket").fileno())


def track_aiohttp(module: ModuleType, runtime: Runtime) -> None:
    """Track the connections of ``aiohttp.web_protocol``."""
    _track_aiohttp(module.RequestHandler, runtime)
    _close_aiohttp_answers(module.StreamResponse, runtime)


def _track_aiohttp(handler: Any, runtime: Runtime) -> None:
    connection_made, connection_lost, data_received, handle_request = (
        handler.connection_made,
        handler.connection_lost,
        handler.data_received,
        handler._handle_request,  # handles one request, from its head to the end of its answer
    )

    @functools.wraps(connection_made)
    def opened(self: Any, transport: Any) -> Any:
        runtime.add_server(tracked)
        connections.open(self, Peer(transport), state="new", patience=0.0)
        return connection_made(self, transport)

    @functools.wraps(connection_lost)
    def closed(self: Any, exc: Any) -> Any:
        connections.close(self)
        return connection_lost(self, exc)

    @functools.wraps(data_received)
    def received(self: Any, data: Any) -> Any:
        connection = connections.of(self)
        if connection is not None and connection.state != "busy":
            connections.change_state(connection, "new")
        return data_received(self, data)

    @functools.wraps(handle_request)
    async def answer(self: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
        connection = connections.of(self)
        if connection is not None:
            connection.patience = 0.0 if request.content.is_eof() else infinity  # aiohttp's stop reads no further body
        connections.change_state(connection, "busy")
        try:
            return await handle_request(self, request, *args, **kwargs)
        finally:
            connections.change_state(connection, "idle")

    handler.connection_made = opened
    handler.connection_lost = closed
    handler.data_received = received
    handler._handle_request = answer


def _close_aiohttp_answers(response: Any, runtime: Runtime) -> None:
    original = response.prepare

    @functools.wraps(original)
    async def prepare(self: Any, request: Any) -> Any:
        if runtime.stopping and self.status != _SWITCHING:
            self.force_close()
        return await original(self, request)

    response.prepare = prepare


class TornadoEvents:
    """An answer that does not end by itself. Create it in its loop."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._loop = running_loop()

    def end(self) -> None:
        """End the answer cleanly, with its last chunk and the end of the connection. The app's next write fails."""
        self._loop.call_soon_threadsafe(self._finish)

    def _finish(self) -> None:
        if self._connection.stream is not None:
            self._connection._disconnect_on_finish = True
            self._connection.finish()


def track_tornado(module: ModuleType, runtime: Runtime) -> None:
    """Track the requests of ``tornado.http1connection``, or the connections of ``tornado.httpserver``."""
    if module.__name__ == "tornado.http1connection":
        _track_tornado_requests(module.HTTP1Connection, runtime)
    else:
        _track_tornado_connections(module.HTTPServer, runtime)


def _track_tornado_connections(server_class: Any, runtime: Runtime) -> None:
    handle_stream, on_close = server_class.handle_stream, server_class.on_close

    @functools.wraps(handle_stream)
    def open_stream(self: Any, stream: Any, *args: Any, **kwargs: Any) -> Any:
        runtime.add_server(tracked)
        connections.open(stream, stream.socket, state="new", patience=infinity)
        return handle_stream(self, stream, *args, **kwargs)

    @functools.wraps(on_close)
    def close_stream(self: Any, connection: Any) -> Any:
        connections.close(connection.stream)
        return on_close(self, connection)

    server_class.handle_stream = open_stream
    server_class.on_close = close_stream


def _track_tornado_requests(connection_class: Any, runtime: Runtime) -> None:
    read_response, parse_headers, write_headers = (
        connection_class.read_response,
        connection_class._parse_headers,  # it is busy from here on
        connection_class.write_headers,
    )

    @functools.wraps(read_response)
    def await_request(self: Any, *args: Any, **kwargs: Any) -> Any:
        connection = connections.of(self.stream)
        if connection is not None and connection.state == "busy":
            connections.change_state(connection, "idle")
        return read_response(self, *args, **kwargs)

    @functools.wraps(parse_headers)
    def begin(self: Any, *args: Any, **kwargs: Any) -> Any:
        connections.change_state(connections.of(self.stream), "busy")
        return parse_headers(self, *args, **kwargs)

    @functools.wraps(write_headers)
    def answer(self: Any, start_line: Any, headers: Any, *args: Any, **kwargs: Any) -> Any:
        if self.is_client or start_line.code < 200:
            return write_headers(self, start_line, headers, *args, **kwargs)
        if runtime.stopping:
            self._disconnect_on_finish = True
        result = write_headers(self, start_line, headers, *args, **kwargs)
        request = self._request_start_line
        connection = connections.of(self.stream)
        if connection is not None and request is not None and is_endless(request.method, list(headers.get_all())):
            connection.events = TornadoEvents(self)
            connections.change_state(connection, "events")
        return result

    connection_class.read_response = await_request
    connection_class._parse_headers = begin
    connection_class.write_headers = answer


def track_waitress(module: ModuleType, runtime: Runtime) -> None:
    """Track the channels of ``waitress.channel``, or the tasks and pools of ``waitress.task``."""
    if module.__name__ == "waitress.channel":
        _track_waitress(module.HTTPChannel, runtime)
    else:
        _close_waitress_answers(module.Task, runtime)
        _watch_waitress_threads(module.ThreadedTaskDispatcher, runtime)


def _track_waitress(channel_class: Any, runtime: Runtime) -> None:
    initialize, received, service, handle_close = (
        channel_class.__init__,
        channel_class.received,
        channel_class.service,
        channel_class.handle_close,
    )

    @functools.wraps(initialize)
    def open_channel(self: Any, server: Any, sock: Any, *args: Any, **kwargs: Any) -> None:
        initialize(self, server, sock, *args, **kwargs)
        runtime.add_server(tracked)
        connections.open(self, sock, state="new", patience=infinity)

    @functools.wraps(received)
    def receive(self: Any, data: Any) -> Any:
        connection = connections.of(self)
        if connection is not None and connection.state != "busy":
            connections.change_state(connection, "new")
        return received(self, data)

    @functools.wraps(service)
    def serve(self: Any) -> Any:
        connections.change_state(connections.of(self), "busy")
        try:
            return service(self)
        finally:
            if not self.requests:
                connections.change_state(connections.of(self), "new" if self.request is not None else "idle")

    @functools.wraps(handle_close)
    def close_channel(self: Any) -> Any:
        try:
            return handle_close(self)
        finally:
            connections.close(self)

    channel_class.__init__ = open_channel
    channel_class.received = receive
    channel_class.service = serve
    channel_class.handle_close = close_channel


def _close_waitress_answers(task_class: Any, runtime: Runtime) -> None:
    original = task_class.build_response_header

    @functools.wraps(original)
    def build_response_header(self: Any) -> Any:
        if runtime.stopping:
            self.set_close_on_finish()
        return original(self)

    task_class.build_response_header = build_response_header


def _watch_waitress_threads(dispatcher_class: Any, runtime: Runtime) -> None:
    """Report the pool as stuck if requests wait and no thread takes the first one."""
    original = dispatcher_class.__init__

    @functools.wraps(original)
    def initialize(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        first: List[Any] = []

        def stuck() -> bool:
            waiting = list(self.queue)[:1]
            same = bool(waiting) and bool(first) and waiting[0] is first[0]
            first[:] = waiting
            return same and self.active_count >= len(self.threads)

        runtime.heartbeat.add_pool(stuck)

    dispatcher_class.__init__ = initialize
