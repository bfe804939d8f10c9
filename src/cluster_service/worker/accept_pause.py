"""Pauses accepting while the thread pool or the loop of this worker is stuck, so that other workers accept.

The server itself might still accept connections, which would wait in its memory until the worker is killed. In the
queue of the shared socket they wait for another worker or the successor of this one. During a stop, the drain decides.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, List, Optional, Set

from .descriptors import sockets
from .reporting import complain
from .unpatched import allocate_lock, os, time

if TYPE_CHECKING:
    from .listener_parking import Aside

PATIENCE = 0.5
"""Seconds for which the worker must be stuck before it pauses accepting."""
AGAIN = 0.25
"""Seconds between two searches for more sockets while paused; some may have been created meanwhile."""
QUIET = 60.0
"""Minimum seconds between two log lines about a pause."""


class Accepting:
    """The listening sockets of this process."""

    def __init__(self) -> None:
        self.spared: Set[object] = set()
        """Addresses on which accepting is never paused."""
        self._stuck_since: Optional[float] = None
        self._said: Optional[float] = None
        self._again = 0.0
        self.wanted = True
        """True if connections should be accepted."""
        self._over = False
        self._done = (True, False)
        """The values of ``wanted`` and ``_over`` that were applied last."""
        self._busy = allocate_lock()
        self._aside: List[Aside] = []

    def look(self, *, stuck: bool) -> None:
        """Record if the worker is *stuck*. Called several times per second, from any thread."""
        if self._over:
            return
        now = time.monotonic()
        self._stuck_since = since = (self._stuck_since or now) if stuck else None
        self.wanted = since is None or now < since + PATIENCE
        if self._done != (self.wanted, self._over) or (not self.wanted and now >= self._again):
            self._again = now + AGAIN
            try:
                self._settle()
            except Exception:  # noqa: BLE001 - no descriptor left, for example: the next call retries
                return
            if self._aside and (self._said is None or now >= self._said + QUIET):
                self._said = now
                complain("neither its loop nor its threads are free: connections are left to other workers")

    def end(self) -> None:
        """Leave the sockets unchanged from now on. May be called in a signal handler."""
        self._over = True
        if self._aside or self._busy.locked():
            self._settle()

    def forget(self) -> None:
        """Reset the state in a fork, where the state of the pool is unknown."""
        for each in self._aside:
            os.close(each.kept)
        self.__init__()  # type: ignore[misc]

    def _settle(self) -> None:
        """Apply the desired state. If another thread is applying it, return: that thread checks the state again."""
        from .listener_parking import back, let_go  # noqa: PLC0415 - most workers never need it

        while self._busy.acquire(blocking=False):
            try:
                wanted, over = self.wanted, self._over
                if not wanted and not over:
                    self._put_aside()
                while self._aside and (wanted or over):
                    (let_go if over else back)(self._aside.pop())
                self._done = wanted, over
            finally:
                self._busy.release()
            if self._done == (self.wanted, self._over):
                return

    def _put_aside(self) -> None:
        """Pause the sockets from which the open connections were accepted; the program may have other sockets."""
        from .listener_parking import places, put  # noqa: PLC0415 - most workers never need it

        fds = sockets()
        at = places(fds) - self.spared
        for fd in fds:
            each = put(fd, keep=True, at=at)
            if each is not None:
                self._aside.append(each)
