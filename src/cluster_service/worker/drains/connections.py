"""The connections that a server in Python holds, and how long each may take once the worker stops.

    new     accepted, or a part of a request has come    ``NEW_GRACE`` since then
    busy    in the middle of a request                   until it is answered
    idle    between requests (keep-alive)                ``IDLE_GRACE`` since its last answer
    events  in an answer that never ends                 none: the answer is ended (``events``)
    left    its answer was ended                         ``LEFT_GRACE`` for its handler, which nobody waits for then

A connection whose time is over is shut for reading, so that the handler that waits for its next request sees its end.
Where bytes have come in the meantime it is left alone: the handler is about to read them.

A program that handles SIGTERM itself has its connections settled before its handler runs (``Kept.settle``). Then a busy
one is waited for no longer than ``Connection.patience``.
"""

from __future__ import annotations

from _socket import MSG_DONTWAIT, MSG_PEEK, SHUT_RD
from _socket import socket as Socket  # noqa: N812 - the C class: also underneath a TLS socket
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Optional, Set

from ..aside import borrowed
from ..serving import Serving
from ..unpatched import Bell, time
from .grace import IDLE_GRACE, LEFT_GRACE, NEW_GRACE, SETTLE_SECONDS

if TYPE_CHECKING:
    from typing import Protocol

    class Endless(Protocol):
        """An answer that never ends by itself."""

        def end(self) -> None:
            """End it, in good order where that is possible."""

_LOOK_SECONDS = 1.0
"""Seconds between two looks, where no state changes and no grace ends."""
_GRACE = {"new": NEW_GRACE, "idle": IDLE_GRACE, "events": 0.0, "left": LEFT_GRACE}


class Connection:
    """One accepted connection. Handlers that say nothing of their requests are busy from beginning to end.

    *request*: a socket, or an object that has its ``fileno``.
    """

    def __init__(self, request: Any, state: str, patience: float) -> None:
        self.request = request
        self.state = state
        self.patience = patience
        """Seconds for which a busy one is waited for before the program's own handler of SIGTERM runs."""
        self.since = time.monotonic()
        self.answered = False
        self.events: Optional[Endless] = None

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
        if shut_for_reading(self.request):
            self.state = "ended"
        else:
            self.since = time.monotonic()


def shut_for_reading(request: Any) -> bool:
    """Let the server see the end of a connection, unless something has come that it has not read yet."""
    try:
        if isinstance(request, Socket):
            if _has_come(request):
                return False
            Socket.shutdown(request, SHUT_RD)
        else:
            with borrowed(request.fileno()) as each:
                if _has_come(each):
                    return False
                each.shutdown(SHUT_RD)
    except (OSError, AttributeError):
        pass  # the client was faster, or the server
    return True


def _has_come(connection: Socket) -> bool:
    try:
        return bool(Socket.recv(connection, 1, MSG_PEEK | MSG_DONTWAIT))
    except OSError:
        return False


class Connections:
    """Those of all servers of this process, by the object that the server has for each."""

    def __init__(self) -> None:
        self._held: Dict[int, Connection] = {}
        self._changed = Bell()
        self.draining = False

    def open(self, key: Any, request: Any = None, *, state: str = "busy", patience: float = SETTLE_SECONDS) -> None:
        """A connection was accepted. *request*: as in ``Connection``, where *key* is none."""
        self._held[id(key)] = Connection(key if request is None else request, state, patience)

    def close(self, key: Any) -> None:
        """A connection has ended, or its handler has."""
        self._held.pop(id(key), None)
        self.tell()

    def of(self, key: Any) -> Optional[Connection]:
        """Return the connection of *key*."""
        return self._held.get(id(key))

    def moves(self, connection: Optional[Connection], state: str) -> None:
        """*connection*, where there is one, is now in *state*."""
        if connection is not None:
            connection.is_now(state)
            self.tell()

    def tell(self) -> None:
        """Something has changed: have ``drain`` look again."""
        if self.draining:
            self._changed.ring()

    def drain(self, has_ended: Callable[[], bool], deadline: float) -> None:
        """Wait until the accepting loop has ended and no connection is left; to *deadline* at most."""
        self._wait(lambda: not self._held_now(None) and has_ended(), deadline)

    def settle(self, deadline: float) -> None:
        """Wait until no connection would be cut by the program's own handler; to *deadline* at most."""
        began = time.monotonic()
        self._wait(lambda: not self._held_now(time.monotonic() - began), deadline)

    def are_unsettled(self) -> bool:
        """Return whether there is a connection for which ``settle`` would wait."""
        return self._held_now(0.0)

    def _wait(self, is_done: Callable[[], bool], deadline: float) -> None:
        self.draining = True
        while not is_done():
            now = time.monotonic()
            if now >= deadline:
                return
            self._changed.wait(min(self._next(now), deadline) - now)

    def _held_now(self, settling: Optional[float]) -> bool:
        """Whether one is left: any at all, or one that still counts after *settling* for that many seconds."""
        return any(
            each.state != "gone"
            if settling is None
            else each.state in ("new", "idle", "events", "left") or (each.state == "busy" and settling < each.patience)
            for each in list(self._held.values())
        )

    def _next(self, now: float) -> float:
        """End what is over; return when to look again."""
        times: List[float] = [now + _LOOK_SECONDS]
        for connection in list(self._held.values()):
            at = connection.expires()
            if at is not None and at <= now:
                connection.expire()
                at = now if connection.state == "gone" else connection.expires()
            if at is not None:
                times.append(at)
        return min(times)

    def filenos(self) -> Set[int]:
        """Return the descriptors of the connections."""
        found = set()
        for connection in list(self._held.values()):
            try:
                found.add(int(connection.request.fileno()))
            except (OSError, AttributeError):
                pass  # it has ended meanwhile
        return found

    def forget(self) -> None:
        """In a forked child: they are the parent's."""
        self.__init__()  # type: ignore[misc]


connections = Connections()


class Kept(Serving):
    """The connections of servers that need not be told to end: asyncio's loops, waitress."""

    def drain(self, deadline: float) -> None:
        """Wait until none is left."""
        connections.drain(lambda: True, deadline)

    def holds(self) -> bool:
        """Return whether one has to settle."""
        return connections.are_unsettled()

    def settle(self, deadline: float) -> None:
        """Wait until none has to settle."""
        connections.settle(deadline)


kept = Kept()
