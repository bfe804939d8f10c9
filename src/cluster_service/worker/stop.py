"""The time that the worker has to stop. The first announcement counts; later ones are ignored."""

from __future__ import annotations

from typing import Dict

from .unpatched import time

DEFAULT_TIMEOUT = 60.0
"""Seconds to stop if no timeout was announced."""


class Stop:
    """The stop in progress, if any. Usable in signal handlers and any thread."""

    def __init__(self) -> None:
        self._known: Dict[str, float] = {}
        """At most one entry; a dictionary, because its setdefault is atomic and needs no lock."""

    def begin(self, timeout: float) -> None:
        """Record that the worker must end within *timeout* seconds."""
        # Reserve part of the time for the program's own exit: its finally blocks and its cleanup.
        self._known.setdefault("deadline", time.monotonic() + max(timeout - 2.0, timeout * 0.8))

    def forget(self) -> None:
        """Reset the state in a fork: the stop was for the worker."""
        self._known.clear()

    @property
    def begun(self) -> bool:
        """True if the worker has been asked to stop."""
        return bool(self._known)

    @property
    def deadline(self) -> float:
        """The time (``time.monotonic()``) by which it should have ended; infinite before a stop."""
        return self._known.get("deadline", float("inf"))

    def remaining(self) -> float:
        """Return the seconds left; the default timeout if no stop was announced."""
        return max(0.0, self.deadline - time.monotonic()) if self.begun else DEFAULT_TIMEOUT
