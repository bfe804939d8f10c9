"""The connections that a threaded or inline server holds, and how long each may take once the worker stops.

    new     accepted, its first request not seen yet     ``NEW_GRACE`` since it was accepted
    busy    in the middle of a request                   until it is answered
    idle    between requests (keep-alive)                ``IDLE_GRACE`` since its last answer
    events  in an answer that never ends                 none: the answer is ended (``events``)
    left    its answer was ended                         ``LEFT_GRACE`` for its handler, which nobody waits for then

A connection whose time is over is shut for reading, so that the handler that waits for its next request sees its end.
Where bytes have come in the meantime it is left alone: somebody is about to read them.
"""

from __future__ import annotations

from _socket import MSG_DONTWAIT, MSG_PEEK, SHUT_RD
from _socket import socket as Socket  # noqa: N812 - the C class: also underneath a TLS socket
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Optional

from ..unpatched import Bell, time
from .grace import IDLE_GRACE, LEFT_GRACE, NEW_GRACE

if TYPE_CHECKING:
    from .events import EventWriter

_GRACE = {"new": NEW_GRACE, "idle": IDLE_GRACE, "events": 0.0, "left": LEFT_GRACE}


class Connection:
    """One accepted connection. Handlers that say nothing of their requests are busy from beginning to end."""

    def __init__(self, request: Any) -> None:
        self.request = request
        self.state = "busy"
        self.since = time.monotonic()
        self.answered = False
        self.events: Optional[EventWriter] = None

    def is_now(self, state: str) -> None:
        """Go on to another state."""
        self.state = state
        self.since = time.monotonic()

    def expires(self) -> Optional[float]:
        """When its time is over; None: not before the worker's."""
        grace = _GRACE.get(self.state)
        return None if grace is None else self.since + grace

    @property
    def was_ended(self) -> bool:
        """Whether its answer was ended for its handler."""
        return self.state in ("left", "gone")

    def expire(self) -> None:
        """End it, unless something has come."""
        if self.state == "left":
            self.state = "gone"
            return
        if self.state == "events" and self.events is not None:
            self.is_now("left")
            self.events.end()
            return
        request = self.request
        if not isinstance(request, Socket) or _has_come(request):
            self.since = time.monotonic()
            return
        self.state = "ended"
        try:
            Socket.shutdown(request, SHUT_RD)
        except OSError:
            pass  # the client was faster


def _has_come(connection: Socket) -> bool:
    try:
        return bool(Socket.recv(connection, 1, MSG_PEEK | MSG_DONTWAIT))
    except OSError:
        return False


class Connections:
    """Those of all servers of this process."""

    def __init__(self) -> None:
        self._held: Dict[int, Connection] = {}
        self._changed = Bell()
        self.draining = False

    def open(self, request: Any) -> None:
        """A connection was accepted."""
        self._held[id(request)] = Connection(request)

    def close(self, request: Any) -> None:
        """A connection's handler has ended."""
        self._held.pop(id(request), None)
        self.tell()

    def of(self, request: Any) -> Optional[Connection]:
        """Return the connection of *request*."""
        return self._held.get(id(request))

    def moves(self, connection: Connection, state: str) -> None:
        """*connection* is now in *state*."""
        connection.is_now(state)
        self.tell()

    def tell(self) -> None:
        """Something has changed: have ``drain`` look again."""
        if self.draining:
            self._changed.ring()

    def drain(self, has_ended: Callable[[], bool], deadline: float) -> None:
        """Wait until the accepting loop has ended and no connection is left; to *deadline* at most."""
        self.draining = True
        while self._are_held() or not has_ended():
            now = time.monotonic()
            if now >= deadline:
                return
            self._changed.wait(min(self._next(now), deadline) - now)

    def _are_held(self) -> bool:
        return any(connection.state != "gone" for connection in list(self._held.values()))

    def _next(self, now: float) -> float:
        """End what is over; return when to look again."""
        times: List[float] = [now + 60.0]
        for connection in list(self._held.values()):
            at = connection.expires()
            if at is not None and at <= now:
                connection.expire()
                at = now if connection.state == "gone" else connection.expires()
            if at is not None:
                times.append(at)
        return min(times)

    def forget(self) -> None:
        """In a forked child: they are the parent's."""
        self.__init__()  # type: ignore[misc]
