"""All other ways to accept connections: asyncio's streams, gevent's servers, a loop around ``accept``.

A program without a SIGTERM handler would exit in the middle of requests. So it stops accepting, and its connections are
drained from outside (``outside``): those with unanswered data until the deadline of the worker. The runtime does not
know the protocol that they use.

If the program handles SIGTERM itself, its handler is delayed until no request is in progress (``settle``).
"""

from __future__ import annotations

from ..serving import Serving
from .outside import Outside


class Rest(Serving):
    """All listening sockets of the process. Create and start it in the main thread, where most loops run."""

    def __init__(self) -> None:
        self._outside = Outside(patient=True)

    def begin(self) -> None:
        """Stop accepting."""
        self._outside.stop_accepting()

    def drain(self, deadline: float) -> None:
        """Wait until all requests are answered, at most until *deadline*."""
        self._outside.drain(deadline)

    def holds(self) -> bool:
        """Return True if a request is in progress."""
        return self._outside.holds()

    def settle(self, deadline: float) -> None:
        """Wait until no request is in progress."""
        self._outside.settle(deadline)
