"""Servers of asyncio's own (``asyncio.start_server``, ``loop.create_server``) in a program without a stop handler.

SIGTERM would end the program's loop in the middle of every request. So the loop stops accepting, and the connections
are given their time from outside (``outside``): those from which something has come that has not been answered yet, to
the end of the worker's time. What the program speaks on them is its own business.

A program that handles SIGTERM itself (aiohttp, hypercorn, tornado) is left alone; so is one whose server is known.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from ..runtime import Runtime, Serving
from .outside import Outside

if TYPE_CHECKING:
    from types import ModuleType


class Accepting(Serving):
    """One server of asyncio's."""

    def __init__(self, server: Any, runtime: Runtime) -> None:
        self.server = server
        self.runtime = runtime

    def begin(self) -> None:
        """Accept no more. Does nothing where another server, which serves by this one, is drained in its own way."""
        loop = self.server.get_loop()
        if self._is_alone() and not loop.is_closed():
            loop.call_soon_threadsafe(self._stop_accepting, loop)

    def _is_alone(self) -> bool:
        return all(isinstance(each, Accepting) for each in self.runtime.servings)

    def _stop_accepting(self, loop: Any) -> None:
        for sock in self.server.sockets:
            loop.remove_reader(sock.fileno())

    def drain(self, deadline: float) -> None:
        """Wait until nothing that has been asked is left without an answer."""
        if self._is_alone():
            Outside(patient=True).drain(deadline)


def install(module: ModuleType, runtime: Runtime) -> None:
    """Drain the servers of the class ``module.Server``."""
    server_class: Any = module.Server
    start, close = server_class._start_serving, server_class.close  # noqa: SLF001 - there is no other place

    @functools.wraps(start)
    def start_and_tell(self: Any, *args: Any, **kwargs: Any) -> Any:
        if getattr(self, "_cservice", None) is None:
            self._cservice = Accepting(self, runtime)
            runtime.serves(self._cservice)
        return start(self, *args, **kwargs)

    @functools.wraps(close)
    def close_and_tell(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not runtime.draining:
            runtime.serves_no_more(getattr(self, "_cservice", None))
        return close(self, *args, **kwargs)

    server_class._start_serving = start_and_tell  # noqa: SLF001
    server_class.close = close_and_tell
