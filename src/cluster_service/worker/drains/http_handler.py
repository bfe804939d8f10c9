"""Handlers of ``http.server``: the state of their connections, and ``Connection: close`` once the worker stops.

WSGI servers (``wsgiref``, Django) write their answers with ``wsgiref.handlers``. Some handlers, such as Django's,
override ``handle_one_request``, so overrides in subclasses are wrapped too.
"""

from __future__ import annotations

import functools
from math import inf as infinity
from typing import TYPE_CHECKING, Any, List, Tuple

from ..endless import endless
from .connections import connections
from .events import EventWriter

if TYPE_CHECKING:
    from types import ModuleType

    from ..runtime import Runtime


def install(module: ModuleType, runtime: Runtime) -> None:
    """Track the requests of every ``BaseHTTPRequestHandler``, or of the WSGI handlers of ``wsgiref.handlers``."""
    if module.__name__ == "wsgiref.handlers":
        _close_answers(module.BaseHandler, runtime)
        return
    handler = module.BaseHTTPRequestHandler
    parse_request, end_headers = handler.parse_request, handler.end_headers

    @functools.wraps(parse_request)
    def begin(self: Any) -> Any:
        connections.moves(connections.of(self.request), "busy")
        return parse_request(self)

    @functools.wraps(end_headers)
    def end(self: Any) -> Any:
        if runtime.stopping and not self.close_connection and not _is_interim(self):
            self.send_header("Connection", "close")  # also ends the handler's loop
        headers = None if _is_interim(self) else _headers(self)
        result = end_headers(self)
        if headers and endless(getattr(self, "command", "") or "", headers):
            _watch(self, chunked=any(name == "transfer-encoding" for name, _ in headers))
        return result

    handler.handle_one_request = _following(handler.handle_one_request)
    handler.parse_request = begin
    handler.end_headers = end
    _follow_subclasses(handler)


def _following(original: Any) -> Any:
    @functools.wraps(original)
    def follow(self: Any) -> Any:
        connection = connections.of(self.request)
        if connection is not None:
            connection.patience = infinity
            connections.moves(connection, "idle" if connection.answered else "new")
            connection.answered = True
        return original(self)

    return follow


def _follow_subclasses(handler: Any) -> None:
    def follow_subclass(cls: Any, /, **kwargs: Any) -> None:
        super(handler, cls).__init_subclass__(**kwargs)
        if "handle_one_request" in vars(cls):
            cls.handle_one_request = _following(cls.handle_one_request)

    handler.__init_subclass__ = classmethod(follow_subclass)


def _close_answers(handler: Any, runtime: Runtime) -> None:
    original = handler.cleanup_headers

    @functools.wraps(original)
    def cleanup_headers(self: Any) -> Any:
        if runtime.stopping and self.origin_server:
            self.headers["Connection"] = "close"  # Django's handler checks it to end its loop
        return original(self)

    handler.cleanup_headers = cleanup_headers


def _headers(handler: Any) -> List[Tuple[str, str]]:
    lines = (bytes(line).decode("latin-1") for line in (getattr(handler, "_headers_buffer", None) or [])[1:])
    pairs = (line.partition(":") for line in lines)
    return [(name.strip().lower(), value.strip()) for name, _, value in pairs]


def _watch(handler: Any, *, chunked: bool) -> None:
    """Record that the answer whose headers were sent is endless."""
    connection = connections.of(handler.request)
    if connection is not None:
        connection.events = handler.wfile = EventWriter(handler.wfile, handler.request, chunked=chunked)
        connections.moves(connection, "events")


def _is_interim(handler: Any) -> bool:
    """Return True if the buffered headers are those of a 1xx response."""
    lines = getattr(handler, "_headers_buffer", None) or [b""]
    words = lines[0].split(b" ", 2)
    return len(words) > 1 and words[1].startswith(b"1")
