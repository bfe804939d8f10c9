"""Length-prefixed JSON frames over a byte stream, sans-IO.

A frame is four bytes of length (big-endian) and that many bytes of UTF-8 JSON holding one object. The length is
bounded, so a peer that sends garbage is found out at once rather than buffered for ever.
"""

from __future__ import annotations

import json
import struct
from typing import Any, Dict, List

LIMIT = 16 * 1024 * 1024
"""The longest frame that is sent or accepted, in bytes. The notebook is the largest thing that travels."""

_HEAD = struct.Struct(">I")


class FrameError(Exception):
    """The peer's bytes are not frames: its fault, and the connection cannot be used any further."""


def encode(message: Dict[str, Any]) -> bytes:
    """Return *message* as one frame. Raises FrameError when it is longer than ``LIMIT``."""
    body = json.dumps(message, separators=(",", ":")).encode()
    if len(body) > LIMIT:
        raise FrameError(f"a frame of {len(body)} bytes is over the limit of {LIMIT}")
    return _HEAD.pack(len(body)) + body


class Decoder:
    """Turns received bytes into messages, whatever way the stream was cut."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> List[Dict[str, Any]]:
        """Return the messages that *data* completes, oldest first. Raises FrameError on garbage."""
        self._buffer += data
        messages: List[Dict[str, Any]] = []
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
            except ValueError as error:
                raise FrameError(f"a frame that is not JSON: {error}") from None
            if not isinstance(message, dict):
                raise FrameError(f"a frame that is not an object: {type(message).__name__}")
            messages.append(message)
        return messages

    @property
    def pending(self) -> int:
        """Bytes received that do not make a whole frame yet."""
        return len(self._buffer)
