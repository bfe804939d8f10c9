"""How long the worker may take to end, once it is asked to. The first word counts: nothing said later changes it."""

from __future__ import annotations

from typing import Dict

from .unpatched import time

DEFAULT_TIMEOUT = 60.0
"""Seconds to stop in when nobody has announced how long it may take."""


class Stop:
    """The stop under way, or none. To be used from signal handlers and from any thread."""

    def __init__(self) -> None:
        self._known: Dict[str, float] = {}
        """At most one; a dictionary, because its setdefault is atomic and needs no lock."""

    def begin(self, timeout: float) -> None:
        """The worker has to end within *timeout* seconds."""
        # A part of the time is kept for the program's own way out: its finally blocks, its cleanup.
        self._known.setdefault("deadline", time.monotonic() + max(timeout - 2.0, timeout * 0.8))

    def forget(self) -> None:
        """In a fork: it was the worker that was asked."""
        self._known.clear()

    @property
    def begun(self) -> bool:
        """Whether the worker has been asked to end."""
        return bool(self._known)

    @property
    def deadline(self) -> float:
        """When it should have ended by itself (``time.monotonic()``); infinite as long as it need not."""
        return self._known.get("deadline", float("inf"))

    def remaining(self) -> float:
        """Seconds left; the default when no stop was announced."""
        return max(0.0, self.deadline - time.monotonic()) if self.begun else DEFAULT_TIMEOUT
