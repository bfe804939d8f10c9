"""Length-prefixed JSON frames over a byte stream, sans-IO.

A frame is four bytes of length (big-endian) and that many bytes of UTF-8 JSON holding one object. The length is
bounded, so a peer that sends garbage is found out at once rather than buffered for ever. A frame whose body cannot be
decoded is skipped and counted: the frames around it are whole.
"""

from __future__ import annotations

import json
import struct
from typing import Any, Dict, Iterator

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
        self.rejected = 0
        """Frames whose body was no JSON object."""

    def feed(self, data: bytes) -> Iterator[Dict[str, Any]]:
        """Return the messages that *data* completes, oldest first.

        They are decoded as they are asked for. FrameError is raised after the last of them when what follows is not a
        frame: then the stream cannot be used any further.
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
        """Bytes received that do not make a whole frame yet."""
        return len(self._buffer)
