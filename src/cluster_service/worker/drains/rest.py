"""Whatever else the program accepts connections with: asyncio's streams, gevent's servers, a loop around ``accept``.

A program that has no handler of SIGTERM would end in the middle of every request. So it accepts no more, and its
connections are given their time from outside (``outside``): those from which something has come that has not been
answered yet, to the end of the worker's time. The runtime knows nothing of the protocol that they speak.

Where the program handles SIGTERM itself, its handler is held back until no request is under way (``settle``).
"""

from __future__ import annotations

from ..serving import Serving
from .outside import Outside


class Rest(Serving):
    """All listening sockets of the process. Made and begun in the main thread, where most programs have their loop."""

    def __init__(self) -> None:
        self._outside = Outside(patient=True)

    def begin(self) -> None:
        """Accept no more."""
        self._outside.stop_accepting()

    def drain(self, deadline: float) -> None:
        """Wait until nothing that has been asked is left without an answer."""
        self._outside.drain(deadline)

    def holds(self) -> bool:
        """Return whether a request is under way."""
        return self._outside.holds()

    def settle(self, deadline: float) -> None:
        """Wait for a moment at which no request is under way."""
        self._outside.settle(deadline)
