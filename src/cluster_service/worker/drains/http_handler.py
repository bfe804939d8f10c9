"""The handlers of ``http.server``: what their connections are at, and ``Connection: close`` once the worker stops."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, List, Tuple

from ..endless import endless
from .events import EventWriter
from .socket_server import connections

if TYPE_CHECKING:
    from types import ModuleType

    from ..runtime import Runtime


def install(module: ModuleType, runtime: Runtime) -> None:
    """Follow the requests of every ``BaseHTTPRequestHandler``."""
    handler = module.BaseHTTPRequestHandler
    handle_one_request, parse_request, end_headers = (
        handler.handle_one_request,
        handler.parse_request,
        handler.end_headers,
    )

    @functools.wraps(handle_one_request)
    def follow(self: Any) -> Any:
        connection = connections.of(self.request)
        if connection is not None:
            connections.moves(connection, "idle" if connection.answered else "new")
            connection.answered = True
        return handle_one_request(self)

    @functools.wraps(parse_request)
    def begin(self: Any) -> Any:
        connection = connections.of(self.request)
        if connection is not None:
            connections.moves(connection, "busy")
        return parse_request(self)

    @functools.wraps(end_headers)
    def end(self: Any) -> Any:
        if runtime.stopping and not self.close_connection and not _is_interim(self):
            self.send_header("Connection", "close")  # which also ends the handler's loop
        headers = None if _is_interim(self) else _headers(self)
        result = end_headers(self)
        if headers and endless(getattr(self, "command", "") or "", headers):
            _watch(self, chunked=any(name == "transfer-encoding" for name, _ in headers))
        return result

    handler.handle_one_request = follow
    handler.parse_request = begin
    handler.end_headers = end


def _headers(handler: Any) -> List[Tuple[str, str]]:
    lines = (bytes(line).decode("latin-1") for line in (getattr(handler, "_headers_buffer", None) or [])[1:])
    pairs = (line.partition(":") for line in lines)
    return [(name.strip().lower(), value.strip()) for name, _, value in pairs]


def _watch(handler: Any, *, chunked: bool) -> None:
    """The answer whose headers have been sent never ends by itself."""
    connection = connections.of(handler.request)
    if connection is not None:
        connection.events = handler.wfile = EventWriter(handler.wfile, handler.request, chunked=chunked)
        connections.moves(connection, "events")


def _is_interim(handler: Any) -> bool:
    """Whether the headers at hand are of a 1xx answer, with the real one to follow."""
    lines = getattr(handler, "_headers_buffer", None) or [b""]
    words = lines[0].split(b" ", 2)
    return len(words) > 1 and words[1].startswith(b"1")
