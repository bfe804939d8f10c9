"""The application as one connection sees it: at the owner's door, at the TCP door, and where there is no room."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .errors import CommandError
from .replies import error_reply

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import Receive, Scope, Send


class Owner:
    """Wraps the application for one connection of the Unix door, whose peer is known."""

    def __init__(self, app: Any, uid: int, *, worker: bool) -> None:
        self._app = app
        self._uid = uid
        self._worker = worker

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, with its peer."""
        scope["peer_uid"] = self._uid
        scope["peer_worker"] = self._worker
        await self._app(scope, receive, send)


class Visitor:
    """Wraps the application for one connection of the TCP door: *authenticated* is called when its client has shown a
    valid key for the first time, and returns whether there is room for it.
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
    """Answer, as an ASGI application, that there is no room."""
    response = error_reply(no_room(), {"Retry-After": "5", "Connection": "close"})
    await response(scope, receive, send)


def no_room() -> CommandError:
    """Return the error that there are too many connections."""
    return CommandError("unavailable", "too many connections are open", "Try again in a moment.")
