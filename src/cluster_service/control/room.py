"""Room for the connections of an endpoint: clients that showed a valid key never make room for others.

A connection is a *stranger's* until its client has shown a valid key, whatever it does meanwhile: its head, its body
or its TLS handshake is unfinished, or it does not read its answer. When there is no room left, the oldest stranger's is
closed. So unfinished requests cost an attacker its own earlier ones, and a client that sends its key in time is served.
"""

from __future__ import annotations

import asyncio

CONNECTIONS = 256
"""Connections of one endpoint."""


def reserved(connections: int) -> int:
    """Return how many of *connections* authenticated clients cannot take: others must be able to authenticate."""
    return max(1, connections // 8)


class Room:
    """The connections of one endpoint, oldest first. A connection is known by its protocol."""

    def __init__(self) -> None:
        self.most = CONNECTIONS
        self._strangers: dict[object, asyncio.BaseTransport] = {}
        self._known: dict[object, asyncio.BaseTransport] = {}
        self._idle: dict[object, asyncio.BaseTransport] = {}
        """Those that wait for no answer, longest idle first."""

    def __repr__(self) -> str:
        """``<Room 3 strangers, 1 known of 256>``."""
        return f"<Room {len(self._strangers)} strangers, {len(self._known)} known of {self.most}>"

    def enter(self, who: object, transport: asyncio.BaseTransport) -> None:
        """Let a stranger in, and close the oldest one when there is no room."""
        self._strangers[who] = self._idle[who] = transport
        if len(self._strangers) + len(self._known) > self.most:
            self._close(next(iter(self._strangers)))

    def authenticate(self, who: object) -> bool:
        """Keep *who* from now on; the authenticated client that has idled longest makes room. Return False when there
        is none: *who* stays a stranger.
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
        """Forget a connection."""
        for place in (self._strangers, self._known, self._idle):
            place.pop(who, None)

    def idle(self, who: object) -> None:
        """Note that *who* waits for no answer."""
        transport = self._known.get(who) or self._strangers.get(who)
        if transport is not None:
            self._idle.setdefault(who, transport)

    def busy(self, who: object) -> None:
        """Note that *who* waits for an answer."""
        self._idle.pop(who, None)

    def clear(self) -> None:
        """Close the connections that wait for no answer."""
        for who in list(self._idle):
            self._close(who)

    def _close(self, who: object) -> None:
        transport = self._strangers.get(who) or self._known.get(who)
        self.leave(who)
        if isinstance(transport, asyncio.Transport):
            transport.abort()
