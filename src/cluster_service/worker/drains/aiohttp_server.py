"""aiohttp: tracking of its connections, and ``Connection: close`` once the worker stops.

``web.run_app`` handles SIGTERM itself. It closes every connection without a request in progress, even if a request is
on its way, and then waits for the requests. So the connections are settled first (``gate``): the runtime waits for
those that may still bring a request, and for uploads. Other busy connections, including WebSockets, are left to
aiohttp. A program that runs an ``AppRunner`` without a signal handler is drained like any other.
"""

from __future__ import annotations

import functools
from math import inf as infinity
from typing import TYPE_CHECKING, Any

from .connections import connections, kept

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


def install(module: ModuleType, runtime: Runtime) -> None:
    """Track the connections of ``aiohttp.web_protocol``."""
    _follow(module.RequestHandler, runtime)
    _close_answers(module.StreamResponse, runtime)


def _follow(handler: Any, runtime: Runtime) -> None:
    connection_made, connection_lost, data_received, handle_request = (
        handler.connection_made,
        handler.connection_lost,
        handler.data_received,
        handler._handle_request,  # noqa: SLF001 - handles one request, from its head to the end of its answer
    )

    @functools.wraps(connection_made)
    def opened(self: Any, transport: Any) -> Any:
        runtime.serves(kept)
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
            connections.moves(connection, "new")
        return data_received(self, data)

    @functools.wraps(handle_request)
    async def answer(self: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
        connection = connections.of(self)
        if connection is not None:
            connection.patience = 0.0 if request.content.is_eof() else infinity  # aiohttp's stop reads no further body
        connections.moves(connection, "busy")
        try:
            return await handle_request(self, request, *args, **kwargs)
        finally:
            connections.moves(connection, "idle")

    handler.connection_made = opened
    handler.connection_lost = closed
    handler.data_received = received
    handler._handle_request = answer  # noqa: SLF001


def _close_answers(response: Any, runtime: Runtime) -> None:
    original = response.prepare

    @functools.wraps(original)
    async def prepare(self: Any, request: Any) -> Any:
        if runtime.stopping and self.status != _SWITCHING:
            self.force_close()
        return await original(self, request)

    response.prepare = prepare
