"""Who gives the command that runs at this moment. A door says so before it runs one; custom commands may ask."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True)
class Caller:
    """*door*: ``unix``, ``tcp``, ``worker`` or ``master``. *peer*: ``uid:0``, an address, ``web.1 (pid 71)``. *key*:
    the name of the access key (never the key), ``owner``, or None where no key was needed.
    """

    door: str
    peer: str
    key: str | None = None


INSIDE = Caller("master", "")
"""The service's own program."""

CALLER: ContextVar[Caller] = ContextVar("caller", default=INSIDE)
