"""Thread pools that answer requests: if all threads are stuck, the worker hangs even if its loop runs.

*Stuck* means that every thread has been busy with the same request since the last check, so that new requests wait.
"""

from __future__ import annotations

import sys
from _thread import get_ident
from typing import Any, Callable, List, Set


class Pool:
    """The *size* threads of a server, each of which calls the wrapped app."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._busy: Set[int] = set()
        self._done = 0
        self._seen = -1

    def runs(self, app: Callable[..., Any]) -> Callable[..., Any]:
        """Return *app* wrapped to track the threads in it."""

        def known(*args: Any) -> Any:
            me = get_ident()
            self._busy.add(me)
            try:
                return app(*args)
            finally:
                self._busy.discard(me)
                self._done += 1  # concurrent updates may lose counts; it only matters that it changes

        return known

    def stuck(self) -> bool:
        """Return True if every thread is busy and none has finished since the last check."""
        done = self._done
        moved, self._seen = done != self._seen, done
        return not moved and len(self._busy) >= self.size


class AnyioPool:
    """anyio's default pool, in which starlette and FastAPI run endpoints that are not coroutines."""

    def __init__(self) -> None:
        self._limiter: Any = None
        self._seen: List[int] = []

    def find(self) -> None:
        """Find the pool of the running loop. Call it in a coroutine of the app."""
        if self._limiter is None and "anyio.to_thread" in sys.modules:
            try:
                self._limiter = sys.modules["anyio.to_thread"].current_default_thread_limiter()
            except Exception:  # noqa: BLE001 - not asyncio, or an unknown version: there is no information
                self._limiter = False

    def stuck(self) -> bool:
        """Return True if the pool is stuck; see ``Pool.stuck``."""
        limiter = self._limiter
        if not limiter or limiter.borrowed_tokens < limiter.total_tokens:
            self._seen = []
            return False
        before, self._seen = self._seen, sorted(map(id, limiter.statistics().borrowers))
        return before == self._seen
