"""Connections of an endpoint: their limits, their peers, and the application that each of them reaches.

Authenticated clients never make room for others.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any

from cluster_service.errors import CommandError

from .http_messages import error_reply

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import Receive, Scope, Send

CONNECTIONS = 256
"""Maximum number of connections of one endpoint."""


def reserved(connections: int) -> int:
    """Return how many of *connections* are kept for clients that have yet to authenticate."""
    return max(1, connections // 8)


class Room:
    """The connections of one endpoint, oldest first. A connection is identified by its protocol object."""

    def __init__(self) -> None:
        self.most = CONNECTIONS
        self._strangers: dict[object, asyncio.BaseTransport] = {}
        self._known: dict[object, asyncio.BaseTransport] = {}
        self._idle: dict[object, asyncio.BaseTransport] = {}
        """Connections that do not wait for an answer, longest idle first."""

    def __repr__(self) -> str:
        """Return ``<Room 3 strangers, 1 known of 256>``."""
        return f"<Room {len(self._strangers)} strangers, {len(self._known)} known of {self.most}>"

    def enter(self, who: object, transport: asyncio.BaseTransport) -> None:
        """Add an unauthenticated connection; close the oldest such connection if the limit is exceeded."""
        self._strangers[who] = self._idle[who] = transport
        if len(self._strangers) + len(self._known) > self.most:
            self._close(next(iter(self._strangers)))

    def authenticate(self, who: object) -> bool:
        """Mark *who* as authenticated; if necessary, close the authenticated connection that has been idle longest.

        Return False if none is idle; *who* then stays unauthenticated.
        """
        transport = self._strangers.get(who)
        if transport is None:
            return who in self._known
        if len(self._known) >= self.most - reserved(self.most):
            idle = next((other for other in self._idle if other in self._known), None)
            if idle is None:
                return False
            self._close(idle)
        self._known[who] = self._strangers.pop(who)
        return True

    def leave(self, who: object) -> None:
        """Remove a connection."""
        for place in (self._strangers, self._known, self._idle):
            place.pop(who, None)

    def idle(self, who: object) -> None:
        """Mark *who* as idle."""
        transport = self._known.get(who) or self._strangers.get(who)
        if transport is not None:
            self._idle.setdefault(who, transport)

    def busy(self, who: object) -> None:
        """Mark *who* as waiting for an answer."""
        self._idle.pop(who, None)

    def clear(self) -> None:
        """Close all idle connections."""
        for who in list(self._idle):
            self._close(who)

    def _close(self, who: object) -> None:
        transport = self._strangers.get(who) or self._known.get(who)
        self.leave(who)
        if isinstance(transport, asyncio.Transport):
            transport.abort()


_STAT = re.compile(rb".*\) \S+ (\d+) (\d+) ", re.DOTALL)
DEEPEST = 64
"""Maximum number of ancestors examined."""


def is_worker(pid: int, guardian: int, master: int) -> bool:
    """Return True if process *pid* is a worker or a descendant of one, or if it exits before this is known.

    *guardian*: pid of the guardian; 0: there is none, and so no worker.
    """
    own = _parent_and_group(guardian)
    if own is None:
        return False
    for _ in range(DEEPEST):
        if pid in (master, guardian) or pid <= 1:  # 0: in another pid namespace, and therefore not ours
            return False
        found = _parent_and_group(pid)
        if found is None:
            return True
        parent, group = found
        if parent == guardian:
            return group != own[1]
        pid = parent
    return True


def _parent_and_group(pid: int) -> tuple[int, int] | None:
    if pid <= 0:
        return None
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            match = _STAT.match(file.read())
    except OSError:
        return None
    return (int(match[1]), int(match[2])) if match else None


class Owner:
    """Wraps the application for one connection of the Unix endpoint, whose peer is known."""

    def __init__(self, app: Any, uid: int, *, worker: bool) -> None:
        self._app = app
        self._uid = uid
        self._worker = worker

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with the identity of its peer."""
        scope["peer_uid"] = self._uid
        scope["peer_worker"] = self._worker
        await self._app(scope, receive, send)


class Visitor:
    """Wraps the application for one connection of the TCP endpoint.

    *authenticated* is called when its client has first sent a valid key, and returns False if there is no room for it.
    """

    def __init__(self, app: Any, authenticated: Callable[[], bool]) -> None:
        self._app = app
        self._authenticated = authenticated
        self._known = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        scope["admitted"] = self._admitted
        await self._app(scope, receive, send)

    def _admitted(self) -> None:
        self._known = self._known or self._authenticated()
        if not self._known:
            raise no_room()


async def full(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer that too many connections are open, as an ASGI application."""
    response = error_reply(no_room(), {"Retry-After": "5", "Connection": "close"})
    await response(scope, receive, send)


def no_room() -> CommandError:
    """Return the error for too many connections."""
    return CommandError("unavailable", "too many connections are open", "Try again in a moment.")
