"""Twisted's HTTP server, also in Daphne: tracking of its connections, and ``Connection: close`` once the worker stops.

The reactor handles SIGTERM itself and closes every connection, even if a request is in progress. So the connections are
settled first (``program_handlers``). A connection that requests another protocol (a WebSocket, HTTP/2) is no longer
tracked.
"""

from __future__ import annotations

import functools
import sys
from math import inf as infinity
from typing import TYPE_CHECKING, Any

from .open_connections import connections, is_endless, tracked

if TYPE_CHECKING:
    from types import ModuleType

    from ..runtime import Runtime


class Peer:
    """The socket of the transport of a channel, valid while the channel has it."""

    def __init__(self, channel: Any) -> None:
        self._channel = channel

    def fileno(self) -> int:
        """Return its descriptor. Raises AttributeError if it is closed, or belongs to another protocol by now."""
        return int(self._channel.transport.getHandle().fileno())


class Events:
    """An answer that does not end by itself."""

    def __init__(self, request: Any) -> None:
        self._request = request

    def end(self) -> None:
        """End the answer cleanly, with its last chunk and the end of the connection. The app's next write fails."""
        sys.modules["twisted.internet.reactor"].callFromThread(self._finish)

    def _finish(self) -> None:
        request = self._request
        if not request.finished and request.channel is not None:
            request.channel.persistent = False
            request.finish()


def track_channels(module: ModuleType, runtime: Runtime) -> None:
    """Track the channels of ``twisted.web.http``."""
    _follow(module.HTTPChannel, runtime)
    _close_answers(module.HTTPChannel, runtime)
    _end_events(module.Request)
    _notice_http2(module._GenericHTTPChannelProtocol)  # no other place tells


def _follow(channel_class: Any, runtime: Runtime) -> None:
    made, lost, received, begin, done = (
        channel_class.connectionMade,
        channel_class.connectionLost,
        channel_class.dataReceived,
        channel_class.allHeadersReceived,
        channel_class.requestDone,
    )

    @functools.wraps(made)
    def opened(self: Any) -> Any:
        runtime.add_server(tracked)
        connections.open(self, Peer(self), state="new", patience=infinity)
        return made(self)

    @functools.wraps(lost)
    def closed(self: Any, reason: Any) -> Any:
        connections.close(self)
        return lost(self, reason)

    @functools.wraps(received)
    def receive(self: Any, data: Any) -> Any:
        connection = connections.of(self)
        if connection is not None and connection.state == "idle":
            connections.change_state(connection, "new")
        return received(self, data)

    @functools.wraps(begin)
    def begin_request(self: Any) -> Any:
        if self.requests[-1].requestHeaders.hasHeader(b"Upgrade"):
            connections.close(self)
        connections.change_state(connections.of(self), "busy")
        return begin(self)

    @functools.wraps(done)
    def end_request(self: Any, request: Any) -> Any:
        connections.change_state(connections.of(self), "idle")
        return done(self, request)  # this may begin the next

    channel_class.connectionMade = opened
    channel_class.connectionLost = closed
    channel_class.dataReceived = receive
    channel_class.allHeadersReceived = begin_request
    channel_class.requestDone = end_request


def _close_answers(channel_class: Any, runtime: Runtime) -> None:
    original = channel_class.checkPersistence

    @functools.wraps(original)
    def is_persistent(self: Any, request: Any, version: Any) -> Any:
        if not runtime.stopping:
            return original(self, request, version)
        request.responseHeaders.setRawHeaders(b"Connection", [b"close"])
        return False

    channel_class.checkPersistence = is_persistent


def _end_events(request_class: Any) -> None:
    original = request_class.write

    @functools.wraps(original)
    def write(self: Any, data: Any) -> Any:
        begins = not self.startedWriting
        result = original(self, data)
        if begins and self.startedWriting and is_endless(_text(self.method), list(_pairs(self.responseHeaders))):
            connection = connections.of(self.channel)
            if connection is not None:
                connection.events = Events(self)
                connections.change_state(connection, "events")
        return result

    request_class.write = write


def _notice_http2(protocol_class: Any) -> None:
    """Remove the channel of a connection for which TLS has chosen HTTP/2."""
    original = protocol_class.dataReceived

    @functools.wraps(original)
    def receive(self: Any, data: Any) -> Any:
        channel = self._channel
        try:
            return original(self, data)
        finally:
            if self._channel is not channel:
                connections.close(channel)

    protocol_class.dataReceived = receive


def _pairs(headers: Any) -> Any:
    return ((name, value) for name, values in headers.getAllRawHeaders() for value in values)


def _text(method: bytes) -> str:
    return method.decode("latin-1")
