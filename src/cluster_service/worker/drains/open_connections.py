"""Connections of servers written in Python, and how long each may take once the worker stops.

    new     accepted, or part of a request has arrived   ``NEW_GRACE`` from then
    busy    a request is in progress                     until it is answered
    idle    between requests (keep-alive)                ``IDLE_GRACE`` from its last answer
    events  an endless answer is in progress             none: the answer is ended (``is_endless``)
    left    its answer was ended                         ``LEFT_GRACE`` for its handler, which is then ignored

A connection whose time has expired is shut down for reading, so that a handler waiting for the next request sees its
end. If data has arrived meanwhile it is left alone, because the handler is about to read it.

If the program handles SIGTERM itself, its connections are settled before its handler runs
(``TrackedConnections.settle``). In that case a busy connection is waited for no longer than ``Connection.patience``.
"""

from __future__ import annotations

from _socket import MSG_DONTWAIT, MSG_PEEK, SHUT_RD
from _socket import socket as Socket  # noqa: N812 - the C class: also underneath a TLS socket
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Optional, Set

from ..descriptors import borrowed_socket
from ..unpatched import Bell, time
from . import RunningServer

if TYPE_CHECKING:
    from typing import Protocol

    class Endless(Protocol):
        """An answer that does not end by itself."""

        def end(self) -> None:
            """End the answer, cleanly if possible."""

NEW_GRACE = 5.0
"""Seconds from its acceptance: the first request may be on its way."""
IDLE_GRACE = 5.0
"""Seconds from its last answer (keep-alive). The next request within it is answered with ``Connection: close``.

Equal to uvicorn's default keep-alive timeout, so that a stop cuts off no client that would otherwise have been kept.
"""
LEFT_GRACE = 2.0
"""Seconds for a handler to notice that its answer was ended."""
SETTLE_SECONDS = 5.0
"""Seconds for which requests that the program may or may not finish itself delay its SIGTERM handler."""


ENDLESS = ("text/event-stream", "multipart/x-mixed-replace")
"""Content types of answers that do not end by themselves."""
_TYPE, _LENGTH = "content-type", "content-length"


def is_endless(method: str, headers: Any) -> bool:
    """Return True if the answer with *headers* (pairs of text or bytes) to a request of *method* does not end by
    itself.

    Only for GET: the answer to a POST, such as the output of a language model, is finite and cannot be requested again.
    An answer with a Content-Length is finite too.
    """
    if method != "GET" or not isinstance(headers, (list, tuple)):
        return False
    found = False
    for name, value in headers:
        if len(name) in (len(_TYPE), len(_LENGTH)):
            text = _text(name)
            if text == _LENGTH:
                return False
            found = found or (text == _TYPE and _text(value).startswith(ENDLESS))
    return found


def _text(part: Any) -> str:
    return (part if isinstance(part, str) else bytes(part).decode("latin-1")).strip().lower()


_LOOK_SECONDS = 1.0
"""Maximum seconds between two checks while no state changes and no grace period ends."""
_GRACE = {"new": NEW_GRACE, "idle": IDLE_GRACE, "events": 0.0, "left": LEFT_GRACE}


class Connection:
    """One accepted connection. If its handler does not report requests, it is busy from beginning to end.

    *request*: a socket, or an object with its ``fileno``.
    """

    def __init__(self, request: Any, state: str, patience: float) -> None:
        self.request = request
        self.state = state
        self.patience = patience
        """Seconds to wait for it, if busy, before the SIGTERM handler of the program runs."""
        self.since = time.monotonic()
        self.answered = False
        self.events: Optional[Endless] = None

    def enter_state(self, state: str) -> None:
        """Change the state."""
        self.state = state
        self.since = time.monotonic()

    def expires(self) -> Optional[float]:
        """Return the time at which it expires; None: only with the deadline of the worker."""
        grace = _GRACE.get(self.state)
        return None if grace is None else self.since + grace

    @property
    def is_ended_early(self) -> bool:
        """True if its answer was ended on behalf of its handler."""
        return self.state in ("left", "gone")

    def expire(self) -> None:
        """End it, unless data has arrived."""
        if self.state == "left":
            self.state = "gone"
            return
        if self.state == "events" and self.events is not None:
            self.enter_state("left")
            self.events.end()
            return
        if shut_for_reading(self.request):
            self.state = "ended"
        else:
            self.since = time.monotonic()


def shut_for_reading(request: Any) -> bool:
    """Shut down a connection for reading and return True; return False if unread data has arrived."""
    try:
        if isinstance(request, Socket):
            if _has_come(request):
                return False
            Socket.shutdown(request, SHUT_RD)
        else:
            with borrowed_socket(request.fileno()) as each:
                if _has_come(each):
                    return False
                each.shutdown(SHUT_RD)
    except (OSError, AttributeError):
        pass  # the client or the server has closed it
    return True


def _has_come(connection: Socket) -> bool:
    try:
        return bool(Socket.recv(connection, 1, MSG_PEEK | MSG_DONTWAIT))
    except OSError:
        return False


class Connections:
    """The connections of all servers in this process, by the object that the server uses for each."""

    def __init__(self) -> None:
        self._held: Dict[int, Connection] = {}
        self._changed = Bell()
        self.draining = False

    def open(self, key: Any, request: Any = None, *, state: str = "busy", patience: float = SETTLE_SECONDS) -> None:
        """Add an accepted connection. *request*: as in ``Connection``, if *key* is not suitable."""
        self._held[id(key)] = Connection(key if request is None else request, state, patience)

    def close(self, key: Any) -> None:
        """Remove a connection that has ended, or whose handler has."""
        self._held.pop(id(key), None)
        self.tell()

    def of(self, key: Any) -> Optional[Connection]:
        """Return the connection of *key*, or None."""
        return self._held.get(id(key))

    def change_state(self, connection: Optional[Connection], state: str) -> None:
        """Change the state of *connection*, unless it is None."""
        if connection is not None:
            connection.enter_state(state)
            self.tell()

    def tell(self) -> None:
        """Wake ``drain``, because something has changed."""
        if self.draining:
            self._changed.ring()

    def drain(self, has_ended: Callable[[], bool], deadline: float) -> None:
        """Wait until the accept loop has ended and no connection is left, at most until *deadline*."""
        self._wait(lambda: not self._held_now(None) and has_ended(), deadline)

    def settle(self, deadline: float) -> None:
        """Wait until the program's own handler would cut off no connection, at most until *deadline*."""
        began = time.monotonic()
        self._wait(lambda: not self._held_now(time.monotonic() - began), deadline)

    def are_unsettled(self) -> bool:
        """Return True if ``settle`` would wait for a connection."""
        return self._held_now(0.0)

    def _wait(self, is_done: Callable[[], bool], deadline: float) -> None:
        self.draining = True
        while not is_done():
            now = time.monotonic()
            if now >= deadline:
                return
            self._changed.wait(min(self._next(now), deadline) - now)

    def _held_now(self, settling: Optional[float]) -> bool:
        """Return True if a connection is left: any, or with *settling*, one to wait for after that many seconds."""
        return any(
            each.state != "gone"
            if settling is None
            else each.state in ("new", "idle", "events", "left") or (each.state == "busy" and settling < each.patience)
            for each in list(self._held.values())
        )

    def _next(self, now: float) -> float:
        """End expired connections; return the time of the next check."""
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
                pass  # closed meanwhile
        return found

    def forget(self) -> None:
        """Reset the state in a forked child: the connections belong to the parent."""
        self.__init__()  # type: ignore[misc]


connections = Connections()


class TrackedConnections(RunningServer):
    """The connections of servers that need no signal to stop: asyncio's loops, waitress."""

    def drain(self, deadline: float) -> None:
        """Wait until no connection is left."""
        connections.drain(lambda: True, deadline)

    def has_open_requests(self) -> bool:
        """Return True if a connection has to settle."""
        return connections.are_unsettled()

    def settle(self, deadline: float) -> None:
        """Wait until no connection has to settle."""
        connections.settle(deadline)


tracked = TrackedConnections()
