"""Pauses accepting while the thread pool or the loop of this worker is stuck, so that other workers accept.

The server itself might still accept connections, which would wait in its memory until the worker is killed. In the
queue of the shared socket they wait for another worker or the successor of this one. During a stop, the drain decides.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, List, Optional, Set

from .descriptors import sockets
from .reporting import warn
from .unpatched import allocate_lock, os, time

if TYPE_CHECKING:
    from .listener_parking import ParkedListener

STUCK_SECONDS = 0.5
"""Seconds for which the worker must be stuck before it pauses accepting."""
SEARCH_SECONDS = 0.25
"""Seconds between two searches for more sockets while paused; some may have been created meanwhile."""
LOG_SECONDS = 60.0
"""Minimum seconds between two log lines about a pause."""


class AcceptPause:
    """The listening sockets of this process."""

    def __init__(self) -> None:
        self.exempt: Set[object] = set()
        """Addresses on which accepting is never paused."""
        self._stuck_since: Optional[float] = None
        self._said: Optional[float] = None
        self._again = 0.0
        self.accepts = True
        """True if connections should be accepted."""
        self._over = False
        self._applied = (True, False)
        """The values of ``accepts`` and ``_over`` that were applied last."""
        self._busy = allocate_lock()
        self._parked: List[ParkedListener] = []

    def update(self, *, stuck: bool) -> None:
        """Record if the worker is *stuck*. Called several times per second, from any thread."""
        if self._over:
            return
        now = time.monotonic()
        self._stuck_since = since = (self._stuck_since or now) if stuck else None
        self.accepts = since is None or now < since + STUCK_SECONDS
        if self._applied != (self.accepts, self._over) or (not self.accepts and now >= self._again):
            self._again = now + SEARCH_SECONDS
            try:
                self._settle()
            except Exception:  # noqa: BLE001 - no descriptor left, for example: the next call retries
                return
            if self._parked and (self._said is None or now >= self._said + LOG_SECONDS):
                self._said = now
                warn("saturated: no loop or thread is free; paused accepting new connections")

    def end(self) -> None:
        """Leave the sockets unchanged from now on. May be called in a signal handler."""
        self._over = True
        if self._parked or self._busy.locked():
            self._settle()

    def reset(self) -> None:
        """Reset the state in a fork, where the state of the pool is unknown."""
        for each in self._parked:
            os.close(each.original)
        self.__init__()  # type: ignore[misc]

    def _settle(self) -> None:
        """Apply the desired state. If another thread is applying it, return: that thread checks the state again."""
        from .listener_parking import discard, restore  # most workers never need it

        while self._busy.acquire(blocking=False):
            try:
                accepts, over = self.accepts, self._over
                if not accepts and not over:
                    self._park()
                while self._parked and (accepts or over):
                    (discard if over else restore)(self._parked.pop())
                self._applied = accepts, over
            finally:
                self._busy.release()
            if self._applied == (self.accepts, self._over):
                return

    def _park(self) -> None:
        """Pause the sockets from which the open connections were accepted; the program may have other sockets."""
        from .listener_parking import connected_ports, park  # most workers never need it

        fds = sockets()
        at = connected_ports(fds) - self.exempt
        for fd in fds:
            each = park(fd, keep=True, at=at)
            if each is not None:
                self._parked.append(each)
