"""The interface of a running server that the stop of a worker uses. The drains implement it."""

from __future__ import annotations

from typing import Any, Callable

from .say import complain


class Serving:
    """A server that can be told to stop accepting and be waited for."""

    runs_callback = False
    """True if it runs ``on_worker_stop`` itself when it ends."""

    def begin(self) -> None:
        """Stop accepting. Called from a signal handler: must not block."""

    def drain(self, deadline: float) -> None:
        """Wait until the open requests are answered, at most until *deadline* (``time.monotonic()``)."""

    # For a program that handles SIGTERM itself (``gate``): the server continues until the program's handler ends it.

    def holds(self) -> bool:
        """Return True if ``settle`` would wait for an open connection."""
        return False

    def settle(self, deadline: float) -> None:
        """Wait for requests that the server's own shutdown would cut off, at most until *deadline*."""


def guarded(serving: Serving, function: Callable[..., None], *args: Any) -> None:
    """Call *function* of *serving*; report an exception rather than raise it, because the worker must stop anyway."""
    try:
        function(*args)
    except Exception as error:  # noqa: BLE001
        complain(f"{type(serving).__module__}.{type(serving).__name__} could not be drained: {error!r}")
