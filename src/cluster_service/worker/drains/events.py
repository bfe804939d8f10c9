"""Streams of events (``endless``) of the handlers of ``http.server``: ended between two parts of the answer.

What the handler writes passes here, so that it is known where a chunk ends: there the last chunk is put, and then the
connection is shut for writing. The handler notices at its next write, which fails as if the client had gone.
"""

from __future__ import annotations

import threading
from _socket import SHUT_WR
from _socket import socket as Socket  # noqa: N812 - the C class: also underneath a TLS socket
from typing import Any

_LAST_CHUNK = b"0\r\n\r\n"
_TURN = 0.1
"""Seconds to wait for a write that is under way: one that takes longer is to a client that does not read."""


class EventWriter:
    """The ``wfile`` of a handler, once its answer turns out to be endless."""

    def __init__(self, wfile: Any, connection: Any, *, chunked: bool) -> None:
        self._wfile = wfile
        self._connection = connection
        self._chunks = Chunks() if chunked else None
        self._turn = threading.Lock()

    def write(self, data: Any) -> Any:
        """Write, as the handler asks for."""
        with self._turn:
            if self._chunks is not None:
                self._chunks.passes(bytes(data))
            return self._wfile.write(data)

    def end(self) -> None:
        """End the answer, in good order where that is possible."""
        mine = self._turn.acquire(timeout=_TURN)
        try:
            if mine and self._chunks is not None and self._chunks.between:
                self._wfile.write(_LAST_CHUNK)
                self._wfile.flush()
            Socket.shutdown(self._connection, SHUT_WR)
        except (OSError, ValueError):
            pass  # the client was faster, or the handler
        finally:
            if mine:
                self._turn.release()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._wfile, name)


class Chunks:
    """Where in a chunked body (RFC 9112, section 7.1) the writer is."""

    def __init__(self) -> None:
        self._left = 0
        self._line = b""

    @property
    def between(self) -> bool:
        """Whether the last chunk is complete."""
        return not self._left and not self._line

    def passes(self, data: bytes) -> None:
        """*data* is written."""
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
                    self._left = int(size, 16) + 2  # and its line's end
                except ValueError:
                    self._line = b"?"  # not chunks, after all
                    return
