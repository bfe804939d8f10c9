"""The server of the doors: uvicorn inside the master's own loop, on sockets that are handed to it.

    await serve(service, doors, access)   until it is cancelled: then answers are finished and the sockets closed
    Door(socket)                          a listening socket: AF_UNIX is the owner's door, any other the TCP one

The web server is imported here, when the first door opens, and nowhere else.

Invariants: no signal handler, no log line, no timer while nobody is connected. Whoever connects to a Unix door must be
root or the owner, or is cut off before a byte is read. A connection that does not send a whole head in
``HEAD_SECONDS`` is closed. The sockets may be shared with another process (the guardian holds them): closing them here
ends nothing there.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from .app import Owner, make_app

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .access import Access
    from .service import Service

HEAD_SECONDS = 10.0
HEAD_BYTES = 16 * 1024
"""The longest request line and headers together."""
CONNECTIONS = 256
"""More than this at once are answered 503."""
LEAVE_SECONDS = 2
"""How long answers under way may take once the doors are closing."""

_CREDENTIALS = struct.Struct("3i")


@dataclass(frozen=True)
class Door:
    """A listening socket that commands come in by."""

    socket: socket.socket

    @property
    def address(self) -> str:
        """``unix:/run/…/web.sock`` or ``127.0.0.1:11987``."""
        name = self.socket.getsockname()
        if self.socket.family == socket.AF_UNIX:
            return f"unix:{name}"
        return f"[{name[0]}]:{name[1]}" if ":" in name[0] else f"{name[0]}:{name[1]}"


async def serve(service: Service, doors: Sequence[Door], access: Access) -> None:
    """Answer at *doors* until cancelled. The sockets are closed at the end."""
    sockets = [door.socket for door in doors]
    for opened in sockets:
        opened.settimeout(0)
    closing = asyncio.Event()
    config = uvicorn.Config(
        make_app(service, access, closing),
        http=_Protocol,
        ws="none",
        loop="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        log_level="critical",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=False,
        limit_concurrency=CONNECTIONS,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=LEAVE_SECONDS,
        h11_max_incomplete_event_size=HEAD_BYTES,
    )
    server = _Server(config, closing)
    running = asyncio.ensure_future(server.serve(sockets=sockets))
    try:
        await asyncio.shield(running)
    except asyncio.CancelledError:
        closing.set()
        await running
        raise


class _Server(uvicorn.Server):
    """uvicorn's server without its signal handlers, and asleep rather than looking ten times a second."""

    def __init__(self, config: uvicorn.Config, closing: asyncio.Event) -> None:
        super().__init__(config)
        self._closing = closing

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to the master."""
        yield

    async def main_loop(self) -> None:
        """Sleep until the doors close."""
        await self._closing.wait()


class _Protocol(H11Protocol):
    """uvicorn's protocol, which knows its peer and does not wait for ever."""

    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        peer: socket.socket = transport.get_extra_info("socket")
        if peer.family == socket.AF_UNIX:
            _, uid, _ = _CREDENTIALS.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
            if uid not in (0, os.geteuid()):
                transport.abort()
            self.app = Owner(self.app, uid)
        super().connection_made(transport)
        self._await_head()

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        super().data_received(data)
        waiting = self.cycle is None or self.cycle.response_complete
        if not waiting:
            self._forget_head()
        elif self._head_timer is None:
            self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget_head()
        super().connection_lost(exc)

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(HEAD_SECONDS, self._too_slow)

    def _forget_head(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _too_slow(self) -> None:
        self._head_timer = None
        if self.cycle is None or self.cycle.response_complete:
            self.transport.abort()


__all__ = ["Door", "serve"]
