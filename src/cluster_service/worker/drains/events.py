"""Event streams (``endless``) of ``http.server`` handlers: ended between two chunks of the answer.

The handler writes through this module, which tracks the boundaries of chunks. At a boundary it sends the last chunk and
shuts down the connection for writing. The next write of the handler fails, as if the client had disconnected.
"""

from __future__ import annotations

import threading
from _socket import SHUT_WR
from _socket import socket as Socket  # noqa: N812 - the C class: also underneath a TLS socket
from typing import Any

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
