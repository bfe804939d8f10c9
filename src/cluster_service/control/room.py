"""Connection limits of an endpoint, in which authenticated clients never yield to others.

A connection counts as a *stranger's* until its client has sent a valid key, whatever its state: during the TLS
handshake, with an incomplete head or body, or while it does not read its answer. When the limit is reached, the oldest
stranger's connection is closed. Incomplete requests thus cost an attacker its own earlier connections, while a client
that sends its key in time is served.
"""

from __future__ import annotations

import asyncio

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
