"""Wrappers of the application for one connection: of the Unix endpoint, of the TCP endpoint, and over the limit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .errors import CommandError
from .replies import error_reply

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import Receive, Scope, Send


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
