"""Length-prefixed JSON frames over a byte stream, without I/O.

A frame is a four-byte length (big-endian), followed by that many bytes of UTF-8 JSON with one object. The length is
limited, so that invalid data is detected immediately rather than buffered forever. A frame with an invalid body is
skipped and counted; the frames around it remain valid.
"""

from __future__ import annotations

import json
import struct
from typing import Any, Dict, Iterator

LIMIT = 16 * 1024 * 1024
"""Maximum length of a frame, in bytes. The largest message is the master's checkpoint (``Note``)."""

_HEAD = struct.Struct(">I")


class FrameError(Exception):
    """The received bytes are not frames: the peer is faulty, and the connection is unusable from here on."""


def encode(message: Dict[str, Any]) -> bytes:
    """Return *message* as one frame. Raises FrameError if it is longer than ``LIMIT``."""
    body = json.dumps(message, separators=(",", ":")).encode()
    if len(body) > LIMIT:
        raise FrameError(f"a frame of {len(body)} bytes is over the limit of {LIMIT}")
    return _HEAD.pack(len(body)) + body


class Decoder:
    """Decodes received bytes into messages, however the stream is split."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self.rejected = 0
        """Number of frames whose body was not a JSON object."""

    def feed(self, data: bytes) -> Iterator[Dict[str, Any]]:
        """Return an iterator over the messages that *data* completes, oldest first.

        They are decoded lazily. If invalid data follows the last message, the iterator then raises FrameError; the
        stream is unusable from there on.
        """
        self._buffer += data
        return self._messages()

    def _messages(self) -> Iterator[Dict[str, Any]]:
        while len(self._buffer) >= _HEAD.size:
            (length,) = _HEAD.unpack_from(self._buffer)
            if length > LIMIT:
                raise FrameError(f"a frame of {length} bytes is over the limit of {LIMIT}")
            end = _HEAD.size + length
            if len(self._buffer) < end:
                break
            body = bytes(self._buffer[_HEAD.size : end])
            del self._buffer[:end]
            try:
                message = json.loads(body)
            except (ValueError, RecursionError):
                message = None
            if isinstance(message, dict):
                yield message
            else:
                self.rejected += 1

    @property
    def pending(self) -> int:
        """Number of bytes received that do not form a complete frame yet."""
        return len(self._buffer)
