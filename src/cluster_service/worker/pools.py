"""Pools of threads that answer requests: one whose threads are all stuck is a hang, though the loop beside it turns.

*Stuck* means: every thread has been busy with the same request since the last look. Requests that come meanwhile wait.
"""

from __future__ import annotations

import sys
from _thread import get_ident
from typing import Any, Callable, List, Set


class Pool:
    """The *size* threads of a server, each of which runs the app inside ``busy``."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._busy: Set[int] = set()
        self._done = 0
        self._seen = -1

    def runs(self, app: Callable[..., Any]) -> Callable[..., Any]:
        """Return *app*, known to be busy while it is called."""

        def known(*args: Any) -> Any:
            me = get_ident()
            self._busy.add(me)
            try:
                return app(*args)
            finally:
                self._busy.discard(me)
                self._done += 1  # one of several at a time may be missed: what counts is that it moves

        return known

    def stuck(self) -> bool:
        """Whether nothing has moved since the last look, and nothing is free."""
        done = self._done
        moved, self._seen = done != self._seen, done
        return not moved and len(self._busy) >= self.size


class AnyioPool:
    """anyio's default pool, where starlette and FastAPI run endpoints that are no coroutines."""

    def __init__(self) -> None:
        self._limiter: Any = None
        self._seen: List[int] = []

    def find(self) -> None:
        """Find the pool of the loop that runs. To be called in a coroutine of the app's."""
        if self._limiter is None and "anyio.to_thread" in sys.modules:
            try:
                self._limiter = sys.modules["anyio.to_thread"].current_default_thread_limiter()
            except Exception:  # noqa: BLE001 - it is not asyncio's, or an unknown version: nothing is known of it
                self._limiter = False

    def stuck(self) -> bool:
        """See ``Pool.stuck``."""
        limiter = self._limiter
        if not limiter or limiter.borrowed_tokens < limiter.total_tokens:
            self._seen = []
            return False
        before, self._seen = self._seen, sorted(map(id, limiter.statistics().borrowers))
        return before == self._seen
