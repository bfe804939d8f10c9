"""Whether this worker takes connections. While its pool of threads, or its loop, is stuck it leaves them to others.

Its server may take them all the same, and they would wait in its memory until it is killed. In the queue of the shared
socket they wait for another worker, or for this one's successor. At a stop, that is the drain's business.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, List, Optional, Set

from .say import complain
from .sockets import sockets
from .unpatched import allocate_lock, os, time

if TYPE_CHECKING:
    from .aside import Aside

PATIENCE = 0.5
"""Seconds that it must have been stuck for."""
AGAIN = 0.25
"""Seconds between two looks for more sockets, while connections are left: others may have been asked by now."""
QUIET = 60.0
"""Seconds between two words of it in the log."""


class Accepting:
    """The listening sockets of this process."""

    def __init__(self) -> None:
        self.spared: Set[object] = set()
        """Places at which connections are taken all the same."""
        self._stuck_since: Optional[float] = None
        self._said: Optional[float] = None
        self._again = 0.0
        self.wanted = True
        """Whether connections are to be taken."""
        self._over = False
        self._done = (True, False)
        """What was wanted, and whether it was over, when they were last seen to."""
        self._busy = allocate_lock()
        self._aside: List[Aside] = []

    def look(self, *, stuck: bool) -> None:
        """Take note of whether the worker is *stuck*. To be told several times a second, in any thread."""
        if self._over:
            return
        now = time.monotonic()
        self._stuck_since = since = (self._stuck_since or now) if stuck else None
        self.wanted = since is None or now < since + PATIENCE
        if self._done != (self.wanted, self._over) or (not self.wanted and now >= self._again):
            self._again = now + AGAIN
            try:
                self._settle()
            except Exception:  # noqa: BLE001 - no descriptor is left, say: the beat goes on, and the next look may do
                return
            if self._aside and (self._said is None or now >= self._said + QUIET):
                self._said = now
                complain("neither its loop nor its threads are free: connections are left to other workers")

    def end(self) -> None:
        """Leave the sockets as they are, from now on. To be called in signal handlers, too."""
        self._over = True
        if self._aside or self._busy.locked():
            self._settle()

    def forget(self) -> None:
        """In a fork: nothing is known of its pool."""
        for each in self._aside:
            os.close(each.kept)
        self.__init__()  # type: ignore[misc]

    def _settle(self) -> None:
        """Bring about what is wanted. Who comes while another is at it leaves it to him: he looks once more."""
        from .aside import back, let_go  # noqa: PLC0415 - most workers never need it

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
        """Put aside the sockets on which the connections that are held have come in: a program may have others."""
        from .aside import places, put  # noqa: PLC0415 - most workers never need it

        fds = sockets()
        at = places(fds) - self.spared
        for fd in fds:
            each = put(fd, keep=True, at=at)
            if each is not None:
                self._aside.append(each)
