"""The HTTP server of the endpoints: uvicorn in the event loop of the master, on sockets passed to it.

    await serve(service, doors, access)   runs until cancelled; then finishes its answers and closes the sockets
    Door(socket)                          a listening socket: AF_UNIX is the owner's endpoint, any other is TCP

Only this module imports the web server; it is loaded when the first endpoint opens.

Invariants: the server installs no signal handlers, writes no log lines, and runs no timer without connections. A peer
of a Unix endpoint must be root or the owner; otherwise the connection is closed before a byte is read. A connection is
closed if it does not send a complete head within ``HEAD_SECONDS`` or does not read its answer within ``TAKE_SECONDS``.
The Unix and the TCP endpoint have one ``Room`` each; when it is full, the oldest unauthenticated connection is closed.
Chunked request bodies are refused, because each chunk costs work however short it is. The TCP endpoint accepts
connections at a limited rate (``rate_limits``). The sockets may be shared with the guardian: closing them here does not
close them there.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import socket
import struct
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol

from cluster_service.commands.json_text import encode_json
from cluster_service.errors import CODES, CommandError

from .app import make_app
from .endpoint_connections import Owner, Room, Visitor, full, is_worker
from .http_messages import HEADERS_LIMIT, LINE_LIMIT
from .monitoring import make_probes
from .rate_limits import Limits, Listener

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator, Sequence

    from cluster_service.commands.service_interface import Service

    from .access import Access

HEAD_SECONDS = 10.0
TAKE_SECONDS = 30.0
HEAD_BYTES = LINE_LIMIT + HEADERS_LIMIT
"""Maximum length of the request line and headers together, in bytes."""
LEAVE_SECONDS = 2
"""Seconds for which answers in progress may continue once the endpoints are closing."""

ACCEPTED = 5
"""Iterations of the event loop after which a connection accepted during the shutdown has its protocol."""

_NO_REQUEST = {
    411: ("length_required", "a body in chunks is not taken: send its Content-Length"),
    431: ("headers_too_large", "the head of the request is too long"),
}
"""Status that h11 suggests for an invalid request -> the error to answer."""

_CREDENTIALS = struct.Struct("3i")


@dataclass(frozen=True)
class Door:
    """A listening socket of the control interface."""

    socket: socket.socket
    tls: ssl.SSLContext | None = None

    @property
    def address(self) -> str:
        """Return ``unix:/run/…/web.sock``, ``127.0.0.1:11987`` or ``https://10.0.0.7:11987``."""
        name = self.socket.getsockname()
        if self.is_unix:
            return f"unix:{name}"
        shown = f"[{name[0]}]:{name[1]}" if ":" in name[0] else f"{name[0]}:{name[1]}"
        return f"https://{shown}" if self.tls is not None else shown

    @property
    def is_unix(self) -> bool:
        """True for the endpoint of the owner."""
        return self.socket.family == socket.AF_UNIX


async def serve(
    service: Service,
    doors: Sequence[Door],
    access: Access,
    *,
    guardian: int = 0,
    probes: Sequence[Door] = (),
    metrics: bool = False,
) -> None:
    """Serve *doors* until cancelled, then close the sockets.

    *guardian*: pid of the guardian whose workers may not use the Unix endpoint; 0: no check. *probes*: sockets on
    which only ``server.monitoring`` answers, with or without *metrics*.
    """
    for door in (*doors, *probes):
        door.socket.settimeout(0)
    closing = asyncio.Event()
    app = make_app(service, access, closing)
    kinds = [[door for door in doors if door.is_unix], [door for door in doors if not door.is_unix]]
    servers = [_Server(app, kind, closing, guardian, access.opens) for kind in kinds if kind]
    if probes:
        servers.append(_Server(make_probes(service, metrics=metrics), probes, closing, guardian))
    running = asyncio.gather(*(server.serve(sockets=[door.socket for door in server.doors]) for server in servers))
    try:
        await asyncio.shield(running)
    except asyncio.CancelledError:
        closing.set()
        await running
        raise


class _Server(uvicorn.Server):
    """uvicorn's server without its signal handlers, and without its main loop that wakes ten times a second."""

    def __init__(
        self,
        app: Any,
        doors: Sequence[Door],
        closing: asyncio.Event,
        guardian: int,
        opens: Callable[[bytes], bool] | None = None,
    ) -> None:
        super().__init__(
            uvicorn.Config(
                app,
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
                timeout_keep_alive=8,
                timeout_graceful_shutdown=LEAVE_SECONDS,
                h11_max_incomplete_event_size=HEAD_BYTES,
            )
        )
        self.doors = doors
        self.room = Room()
        self.limits = Limits()
        """Shared by all addresses of the TCP endpoint."""
        self.guardian = guardian
        self._closing = closing
        self._opens = opens
        """Returns True if the first bytes of a connection contain a valid key."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signal handling to the master."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen on the sockets."""
        del sockets
        listeners = []
        for door in self.doors:

            def arrival(tls: ssl.SSLContext | None = door.tls) -> asyncio.Protocol:
                protocol = _Protocol(self)
                return protocol if tls is None else _Greeting(protocol, tls, self.room)

            limits = None if door.is_unix else self.limits
            listeners.append(Listener(door.socket, arrival, limits, None if door.tls else self._opens))
        self.servers = cast("Any", listeners)  # uvicorn closes each and waits for it
        self.started = True

    async def main_loop(self) -> None:
        """Wait until the endpoints are closing."""
        await self._closing.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close idle connections and finish the remaining answers."""
        self.room.clear()
        await super().shutdown(sockets)
        for _ in range(ACCEPTED):
            await asyncio.sleep(0)
        self.room.clear()

    @property
    def closing(self) -> bool:
        """True once new connections are refused."""
        return self._closing.is_set()


class _Connection(h11.Connection):
    """h11's connection, which refuses chunked request bodies."""

    def next_event(self) -> Any:
        """Return the next event. Raises RemoteProtocolError with status 411."""
        event = super().next_event()
        if isinstance(event, h11.Request) and any(name == b"transfer-encoding" for name, _ in event.headers):
            raise h11.RemoteProtocolError("a body needs a length: send Content-Length", error_status_hint=411)
        return event


class _Protocol(H11Protocol):
    """uvicorn's protocol, with the identity of the peer and with timeouts."""

    def __init__(self, server: _Server) -> None:
        super().__init__(server.config, server.server_state, {})
        self.conn = _Connection(h11.SERVER, HEAD_BYTES)
        self._server = server
        self._room = server.room
        self._head_timer: asyncio.TimerHandle | None = None
        self._take_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        peer: socket.socket = transport.get_extra_info("socket")
        self._room.enter(self, transport)
        if peer.family == socket.AF_UNIX:
            pid, uid, _ = _CREDENTIALS.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
            if uid not in (0, os.geteuid()):
                transport.abort()
            worker = self._server.guardian > 0 and is_worker(pid, self._server.guardian, os.getpid())
            self.app = Owner(self.app, uid, worker=worker)
            if not worker and not self._room.authenticate(self):
                self.app = full
        else:
            name = (transport.get_extra_info("peername") or ("",))[0]
            self.app = Visitor(self.app, functools.partial(self._authenticated, name))
        super().connection_made(transport)
        self._await_head()
        if self._server.closing:  # accepted during the shutdown: the client retries with the next master
            transport.abort()

    def _authenticated(self, peer: str) -> bool:
        """Record that the client has sent a valid key. Return False if there is no room for it."""
        self._server.limits.known(peer)
        return self._room.authenticate(self)

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
        self.resume_writing()
        self._room.leave(self)
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.get_write_buffer_size():
            self._await_taking()
        if not self.transport.is_closing() and self.cycle.response_complete:
            self._room.idle(self)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._await_taking()

    def resume_writing(self) -> None:
        if self._take_timer is not None:
            self._take_timer.cancel()
            self._take_timer = None
        super().resume_writing()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._await_taking()

    def _await_taking(self) -> None:
        """Close the connection unless the client reads its answer within ``TAKE_SECONDS``."""
        if self._take_timer is None:
            self._take_timer = self.loop.call_later(TAKE_SECONDS, self._not_taken)

    def _not_taken(self) -> None:
        self._take_timer = None
        if self.transport.get_write_buffer_size() or self.transport.is_closing():
            self.transport.abort()

    def send_400_response(self, msg: str) -> None:
        """Answer an invalid request with the error object."""
        hint = getattr(sys.exc_info()[1], "error_status_hint", 400)
        code, message = _NO_REQUEST.get(hint, ("bad_request", msg))
        error = CommandError(code, message)
        status = CODES[code][0]
        body = encode_json(error.to_json()).encode() + b"\n"
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (b"cache-control", b"no-store"),
            (b"connection", b"close"),
        ]
        answer = h11.Response(status_code=status, headers=headers, reason=STATUS_PHRASES[status])
        with contextlib.suppress(h11.LocalProtocolError):  # an answer is already in progress
            for event in (answer, h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(HEAD_SECONDS, self._too_slow)
        self._room.idle(self)

    def _forget_head(self) -> None:
        self._room.busy(self)
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _too_slow(self) -> None:
        self._head_timer = None
        if self.cycle is None or self.cycle.response_complete:
            self.transport.abort()


class _Greeting(asyncio.Protocol):
    """A connection during its TLS handshake: occupies a place in the room, for at most ``HEAD_SECONDS``."""

    def __init__(self, protocol: _Protocol, tls: ssl.SSLContext, room: Room) -> None:
        self._protocol = protocol
        self._tls = tls
        self._room = room
        self._early = bytearray()
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.pause_reading()
        self._room.enter(self, transport)
        self._task = asyncio.get_running_loop().create_task(self._greet(transport))

    def data_received(self, data: bytes) -> None:
        self._early += data  # bounded: it arrived with the end of the handshake

    async def _greet(self, transport: asyncio.Transport) -> None:
        loop = asyncio.get_running_loop()
        try:
            secured = await loop.start_tls(
                transport, self, self._tls, server_side=True, ssl_handshake_timeout=HEAD_SECONDS
            )
        except (OSError, TimeoutError):
            transport.abort()
            return
        finally:
            self._room.leave(self)
        if secured is None or secured.is_closing():
            return
        secured.set_protocol(self._protocol)
        self._protocol.connection_made(secured)
        if self._early:
            self._protocol.data_received(bytes(self._early))


__all__ = ["Door", "serve"]
