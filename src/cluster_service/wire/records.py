"""Conversion of frozen records from and to JSON objects: ``{"type": "spawn_failed", "worker": 3, ...}``.

The type is the name of the class in snake case. Unknown fields are ignored, and missing ones take their default, so
that a master and a guardian of adjacent versions understand each other.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any, Dict, Generic, Type, TypeVar

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
