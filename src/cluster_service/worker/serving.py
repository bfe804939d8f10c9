"""A server at work, as the end of a worker knows it. The drains make their own kinds."""

from __future__ import annotations

from typing import Any, Callable

from .say import complain


class Serving:
    """What can be told to stop accepting, and waited for."""

    runs_callback = False
    """Whether it runs ``on_worker_stop`` itself as it ends."""

    def begin(self) -> None:
        """Stop accepting. Called from a signal handler: must not block."""

    def drain(self, deadline: float) -> None:
        """Wait until the requests held are answered, to *deadline* (``time.monotonic()``) at most."""

    # For a program that handles SIGTERM itself (``gate``): the server goes on, until the program's handler ends it.

    def holds(self) -> bool:
        """Return whether a connection is open for which ``settle`` would wait."""
        return False

    def settle(self, deadline: float) -> None:
        """Wait for the requests that the server's own end would cut, to *deadline* at most."""


def guarded(serving: Serving, function: Callable[..., None], *args: Any) -> None:
    """Call *function* of *serving*; where it fails, say so: the worker must end all the same."""
    try:
        function(*args)
    except Exception as error:  # noqa: BLE001
        complain(f"{type(serving).__module__}.{type(serving).__name__} could not be drained: {error!r}")
