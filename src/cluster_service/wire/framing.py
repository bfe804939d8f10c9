"""Records as JSON objects, and length-prefixed JSON frames over a byte stream, without I/O."""

from __future__ import annotations

import dataclasses
import json
import re
import struct
from typing import Any, Dict, Generic, Iterator, Type, TypeVar

T = TypeVar("T")


class UnknownRecord(Exception):
    """The type of a message is unknown, or it lacks a required field."""


def name_of(cls: type) -> str:
    """Return ``spawn_failed`` for ``SpawnFailed``."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower()


def to_json(record: Any) -> Dict[str, Any]:
    """Return *record* (a dataclass of JSON values) as an object with its type. Its fields are not copied."""
    return {"type": name_of(type(record)), **vars(record)}


class Record:
    """Base of frozen dataclasses: comparison, hash and repr by their fields.

    ``dataclass`` would generate these methods for each class, which costs the guardian memory.
    """

    def __eq__(self, other: object) -> bool:
        return NotImplemented if type(other) is not type(self) else vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash((type(self), *vars(self).values()))

    def __repr__(self) -> str:
        names = [each.name for each in dataclasses.fields(self) if each.repr]  # type: ignore[arg-type]
        shown = ", ".join(f"{name}={getattr(self, name)!r}" for name in names)
        return f"{type(self).__qualname__}({shown})"


class Family(Generic[T]):
    """The records allowed in one direction of a protocol."""

    def __init__(self, *classes: Type[T]) -> None:
        self.classes: Dict[str, Type[T]] = {name_of(cls): cls for cls in classes}

    def from_json(self, message: Dict[str, Any]) -> T:
        """Return the record for *message*. Raises UnknownRecord."""
        cls = self.classes.get(str(message.get("type")))
        if cls is None:
            raise UnknownRecord(f"no record of type {message.get('type')!r}")
        known = {field.name for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
        try:
            return cls(**{key: value for key, value in message.items() if key in known})
        except TypeError as error:
            raise UnknownRecord(f"{message.get('type')}: {error}") from None


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
