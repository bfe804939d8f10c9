"""The client that gave the current command. Set before a command runs; custom commands may read it."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True)
class Caller:
    """The origin of a command.

    *door*: ``unix``, ``tcp``, ``worker`` or ``master``. *peer*: ``uid:0``, an address, ``web.1 (pid 71)``. *key*: the
    name of the access key (never the key), ``owner``, or None if no key was needed.
    """

    door: str
    peer: str
    key: str | None = None


INSIDE = Caller("master", "")
"""The program of the service itself."""

CALLER: ContextVar[Caller] = ContextVar("caller", default=INSIDE)
