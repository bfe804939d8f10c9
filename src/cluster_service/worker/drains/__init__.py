"""How each known server stops without losing a request, and the interface that the stop of a worker uses for it.

A module is imported when the program imports the server. It changes only how the server stops, and tolerates versions
with different internals: if it does not find what it needs, the server stops in its own way.
"""

from __future__ import annotations

from typing import Any, Callable

from ..reporting import warn


class RunningServer:
    """A running server that the runtime can drain."""

    runs_callback = False
    """True if it runs ``on_worker_stop`` itself when it ends."""

    def begin(self) -> None:
        """Stop accepting. Called from a signal handler: must not block."""

    def drain(self, deadline: float) -> None:
        """Wait until the open requests are answered, at most until *deadline* (``time.monotonic()``)."""

    # For a program that handles SIGTERM itself (``program_handlers``): its handler ends the server.

    def has_open_requests(self) -> bool:
        """Return True if ``settle`` would wait for an open connection."""
        return False

    def settle(self, deadline: float) -> None:
        """Wait for requests that the server's own shutdown would cut off, at most until *deadline*."""


def call_server(serving: RunningServer, function: Callable[..., None], *args: Any) -> None:
    """Call *function* of *serving*; report an exception rather than raise it, because the worker must stop anyway."""
    try:
        function(*args)
    except Exception as error:  # noqa: BLE001 - any server may fail in any way
        warn(f"{type(serving).__module__}.{type(serving).__name__} could not be drained: {error!r}")
