"""Tornado's HTTP server: tracking of its connections, and ``Connection: close`` once the worker stops.

A WebSocket is detached from the server at its handshake, and so is not included.
"""

from __future__ import annotations

import asyncio
import functools
from math import inf as infinity
from typing import TYPE_CHECKING, Any

from ..endless import endless
from .connections import connections, kept

if TYPE_CHECKING:
    from types import ModuleType

    from ..runtime import Runtime


class Events:
    """An answer that does not end by itself. Create it in its loop."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._loop = asyncio.get_running_loop()

    def end(self) -> None:
        """End the answer cleanly, with its last chunk and the end of the connection. The app's next write fails."""
        self._loop.call_soon_threadsafe(self._finish)

    def _finish(self) -> None:
        if self._connection.stream is not None:
            self._connection._disconnect_on_finish = True  # noqa: SLF001
            self._connection.finish()


def install(module: ModuleType, runtime: Runtime) -> None:
    """Track the requests of ``tornado.http1connection``, or the connections of ``tornado.httpserver``."""
    if module.__name__ == "tornado.http1connection":
        _follow(module.HTTP1Connection, runtime)
    else:
        _know(module.HTTPServer, runtime)


def _know(server_class: Any, runtime: Runtime) -> None:
    handle_stream, on_close = server_class.handle_stream, server_class.on_close

    @functools.wraps(handle_stream)
    def open_stream(self: Any, stream: Any, *args: Any, **kwargs: Any) -> Any:
        runtime.serves(kept)
        connections.open(stream, stream.socket, state="new", patience=infinity)
        return handle_stream(self, stream, *args, **kwargs)

    @functools.wraps(on_close)
    def close_stream(self: Any, connection: Any) -> Any:
        connections.close(connection.stream)
        return on_close(self, connection)

    server_class.handle_stream = open_stream
    server_class.on_close = close_stream


def _follow(connection_class: Any, runtime: Runtime) -> None:
    read_response, parse_headers, write_headers = (
        connection_class.read_response,
        connection_class._parse_headers,  # noqa: SLF001 - it is busy from here on
        connection_class.write_headers,
    )

    @functools.wraps(read_response)
    def await_request(self: Any, *args: Any, **kwargs: Any) -> Any:
        connection = connections.of(self.stream)
        if connection is not None and connection.state == "busy":
            connections.moves(connection, "idle")
        return read_response(self, *args, **kwargs)

    @functools.wraps(parse_headers)
    def begin(self: Any, *args: Any, **kwargs: Any) -> Any:
        connections.moves(connections.of(self.stream), "busy")
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
        if connection is not None and request is not None and endless(request.method, list(headers.get_all())):
            connection.events = Events(self)
            connections.moves(connection, "events")
        return result

    connection_class.read_response = await_request
    connection_class._parse_headers = begin  # noqa: SLF001
    connection_class.write_headers = answer
