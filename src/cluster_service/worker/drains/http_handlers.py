"""``http.server`` and ``wsgiref``: the state of their connections, and ``Connection: close`` once the worker stops.

WSGI servers (``wsgiref``, Django) write their answers with ``wsgiref.handlers``. Some handlers, such as Django's,
override ``handle_one_request``, so overrides in subclasses are wrapped too.

An event stream is ended between two chunks of the answer: the handler writes through ``EventWriter``, which tracks the
boundaries of chunks. At a boundary it sends the last chunk and shuts down the connection for writing. The next write of
the handler fails, as if the client had disconnected.
"""

from __future__ import annotations

import functools
import threading
from _socket import SHUT_WR
from _socket import socket as Socket  # noqa: N812 - the C class: also underneath a TLS socket
from math import inf as infinity
from typing import TYPE_CHECKING, Any, List, Tuple

from .open_connections import connections, is_endless

if TYPE_CHECKING:
    from types import ModuleType

    from ..runtime import Runtime

def track_requests(module: ModuleType, runtime: Runtime) -> None:
    """Track the requests of every ``BaseHTTPRequestHandler``, or of the WSGI handlers of ``wsgiref.handlers``."""
    if module.__name__ == "wsgiref.handlers":
        _close_answers(module.BaseHandler, runtime)
        return
    handler = module.BaseHTTPRequestHandler
    parse_request, end_headers = handler.parse_request, handler.end_headers

    @functools.wraps(parse_request)
    def begin(self: Any) -> Any:
        connections.change_state(connections.of(self.request), "busy")
        return parse_request(self)

    @functools.wraps(end_headers)
    def end(self: Any) -> Any:
        if runtime.stopping and not self.close_connection and not _is_interim(self):
            self.send_header("Connection", "close")  # also ends the handler's loop
        headers = None if _is_interim(self) else _headers(self)
        result = end_headers(self)
        if headers and is_endless(getattr(self, "command", "") or "", headers):
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
            connections.change_state(connection, "idle" if connection.answered else "new")
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
        connections.change_state(connection, "events")


def _is_interim(handler: Any) -> bool:
    """Return True if the buffered headers are those of a 1xx response."""
    lines = getattr(handler, "_headers_buffer", None) or [b""]
    words = lines[0].split(b" ", 2)
    return len(words) > 1 and words[1].startswith(b"1")


_LAST_CHUNK = b"0\r\n\r\n"
_TURN = 0.1
"""Seconds to wait for a write in progress; one that takes longer is to a client that does not read."""


class EventWriter:
    """The ``wfile`` of a handler whose answer is endless."""

    def __init__(self, wfile: Any, connection: Any, *, chunked: bool) -> None:
        self._wfile = wfile
        self._connection = connection
        self._chunks = Chunks() if chunked else None
        self._turn = threading.Lock()

    def write(self, data: Any) -> Any:
        """Write *data* for the handler."""
        with self._turn:
            if self._chunks is not None:
                self._chunks.passes(bytes(data))
            return self._wfile.write(data)

    def end(self) -> None:
        """End the answer, cleanly if possible."""
        mine = self._turn.acquire(timeout=_TURN)
        try:
            if mine and self._chunks is not None and self._chunks.between:
                self._wfile.write(_LAST_CHUNK)
                self._wfile.flush()
            Socket.shutdown(self._connection, SHUT_WR)
        except (OSError, ValueError):
            pass  # the client or the handler has closed it
        finally:
            if mine:
                self._turn.release()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._wfile, name)


class Chunks:
    """The position of the writer in a chunked body (RFC 9112, section 7.1)."""

    def __init__(self) -> None:
        self._left = 0
        self._line = b""

    @property
    def between(self) -> bool:
        """True if the last chunk is complete."""
        return not self._left and not self._line

    def passes(self, data: bytes) -> None:
        """Advance the position by *data*."""
        while data:
            if self._left:
                part = min(self._left, len(data))
                self._left -= part
                data = data[part:]
                continue
            line, end, data = data.partition(b"\n")
            self._line += line + end
            if end:
                size = self._line.partition(b";")[0].strip()
                self._line = b""
                try:
                    self._left = int(size, 16) + 2  # and the line end of the chunk
                except ValueError:
                    self._line = b"?"  # not chunked after all
                    return
