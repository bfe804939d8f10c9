"""Servers of the ``websockets`` package: each connection is closed with code 1001 when the worker stops.

The server itself stays open, because the program may wait for its end; it only gets no new connections
(``unknown_servers``).
"""

from __future__ import annotations

import asyncio
import functools
from typing import TYPE_CHECKING, Any, Set

from ..app_wrappers import GOING_AWAY
from ..unpatched import allocate_lock, time
from . import RunningServer

if TYPE_CHECKING:
    from types import ModuleType

    from ..runtime import Runtime

_TICK = 0.05
"""Seconds between two checks of the connections: one may have been opening at the previous check."""


class WebSocketServer(RunningServer):
    """One server. Create it in its loop."""

    def __init__(self, server: Any) -> None:
        self.server = server
        self._loop = asyncio.get_running_loop()
        self._begun: Set[Any] = set()
        self._closing: Set[Any] = set()

    def begin(self) -> None:
        """Close the open connections."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._close)

    def _close(self) -> None:
        for connection in self.server.connections - self._begun:
            self._begun.add(connection)
            closing = self._loop.create_task(connection.close(GOING_AWAY))
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)

    def drain(self, deadline: float) -> None:
        """Wait until no connection is open. The program sets the timeout of each closing handshake."""
        never = allocate_lock()
        never.acquire()
        while True:
            never.acquire(timeout=_TICK)
            if time.monotonic() > deadline or self._loop.is_closed():
                return
            if not self._closing and not self.server.connections:
                return
            self.begin()


def drain_servers(module: ModuleType, runtime: Runtime) -> None:
    """Drain the servers of the class ``module.Server``."""
    server_class: Any = module.Server
    make, close = server_class.__init__, server_class.close

    @functools.wraps(make)
    def make_and_tell(self: Any, *args: Any, **kwargs: Any) -> None:
        make(self, *args, **kwargs)
        self.cservice_running = WebSocketServer(self)
        runtime.add_server(self.cservice_running)

    @functools.wraps(close)
    def close_and_tell(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not runtime.draining:
            runtime.remove_server(getattr(self, "cservice_running", None))
        return close(self, *args, **kwargs)

    server_class.__init__ = make_and_tell
    server_class.close = close_and_tell
