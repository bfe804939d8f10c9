"""The server of the doors: uvicorn inside the master's own loop, on sockets that are handed to it.

    await serve(service, doors, access)   until it is cancelled: then answers are finished and the sockets closed
    Door(socket)                          a listening socket: AF_UNIX is the owner's door, any other the TCP one

The web server is imported here, when the first door opens, and nowhere else.

Invariants: no signal handler, no log line, no timer while nobody is connected. Whoever connects to a Unix door must be
root or the owner, or is cut off before a byte is read. A connection that does not send a whole head in
``HEAD_SECONDS``, or does not take its answer in ``TAKE_SECONDS``, is cut off. The owner's door and the TCP one each
have room for ``CONNECTIONS``; when it is used up, the connection that has idled longest makes room, so that whoever
holds many open shuts nobody out, and costs a bounded number of descriptors. At the TCP one connections are accepted at
a bounded pace (``listener``). The sockets may be shared with another process (the guardian holds them): closing them
here ends nothing there.
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

from . import encoding
from .app import Owner, Visitor, full, make_app
from .errors import CODES, CommandError
from .listener import Limits, Listener
from .peers import is_worker
from .probes import make_probes
from .sent import HEADERS_LIMIT, LINE_LIMIT

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator, Sequence

    from .access import Access
    from .service import Service

HEAD_SECONDS = 10.0
TAKE_SECONDS = 30.0
HEAD_BYTES = LINE_LIMIT + HEADERS_LIMIT
"""The longest request line and headers together."""
CONNECTIONS = 256
"""More than this at once, none of them idle, are answered 503."""
LEAVE_SECONDS = 2
"""How long answers under way may take once the doors are closing."""

ACCEPTED = 5
"""Turns of the loop after which a connection that was accepted as the doors closed has its protocol."""

_CREDENTIALS = struct.Struct("3i")


@dataclass(frozen=True)
class Door:
    """A listening socket that commands come in by."""

    socket: socket.socket
    tls: ssl.SSLContext | None = None

    @property
    def address(self) -> str:
        """``unix:/run/…/web.sock``, ``127.0.0.1:11987`` or ``https://10.0.0.7:11987``."""
        name = self.socket.getsockname()
        if self.is_unix:
            return f"unix:{name}"
        shown = f"[{name[0]}]:{name[1]}" if ":" in name[0] else f"{name[0]}:{name[1]}"
        return f"https://{shown}" if self.tls is not None else shown

    @property
    def is_unix(self) -> bool:
        """Whether it is an owner's door."""
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
    """Answer at *doors* until cancelled. The sockets are closed at the end. *guardian*: whose workers may not command
    by the owner's door; 0: nobody's. *probes*: where only ``control.probes`` answers, with *metrics* or without.
    """
    for door in (*doors, *probes):
        door.socket.settimeout(0)
    closing = asyncio.Event()
    app = make_app(service, access, closing)
    kinds = [[door for door in doors if door.is_unix], [door for door in doors if not door.is_unix]]
    servers = [_Server(app, kind, closing, guardian) for kind in kinds if kind]
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
    """uvicorn's server without its signal handlers, and asleep rather than looking ten times a second."""

    def __init__(self, app: Any, doors: Sequence[Door], closing: asyncio.Event, guardian: int) -> None:
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
        """Of the TCP door's addresses together."""
        self.guardian = guardian
        self._closing = closing

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to the master."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen."""
        del sockets
        listeners = []
        for door in self.doors:

            def arrival(tls: ssl.SSLContext | None = door.tls) -> asyncio.Protocol:
                protocol = _Protocol(self)
                return protocol if tls is None else _Greeting(protocol, tls, self.room)

            listeners.append(Listener(door.socket, arrival, None if door.is_unix else self.limits))
        self.servers = cast("Any", listeners)  # uvicorn closes each, and waits for it
        self.started = True

    async def main_loop(self) -> None:
        """Sleep until the doors close."""
        await self._closing.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Cut off who has asked for nothing; finish the other answers."""
        self.room.clear()
        await super().shutdown(sockets)
        for _ in range(ACCEPTED):
            await asyncio.sleep(0)
        self.room.clear()

    @property
    def closing(self) -> bool:
        """Whether nobody is let in any more."""
        return self._closing.is_set()


class Room:
    """The connections of a door, and among them those that have asked for nothing yet, longest idle first."""

    def __init__(self) -> None:
        self.count = 0
        self._idle: dict[object, asyncio.BaseTransport] = {}

    def enter(self) -> bool:
        """Let a connection in; another one may have to go. Return False when no other idles."""
        self.count += 1
        if self.count <= CONNECTIONS:
            return True
        if not self._idle:
            return False
        oldest = next(iter(self._idle))
        _abort(self._idle.pop(oldest))
        return True

    def leave(self, who: object) -> None:
        """Forget a connection."""
        self.count -= 1
        self._idle.pop(who, None)

    def idle(self, who: object, transport: asyncio.BaseTransport) -> None:
        """Note that it has asked for nothing."""
        self._idle.setdefault(who, transport)

    def busy(self, who: object) -> None:
        """Note that it is being answered."""
        self._idle.pop(who, None)

    def clear(self) -> None:
        """Cut off those who have asked for nothing."""
        for transport in self._idle.values():
            _abort(transport)
        self._idle.clear()


def _abort(transport: asyncio.BaseTransport) -> None:
    if isinstance(transport, asyncio.Transport):
        transport.abort()


class _Protocol(H11Protocol):
    """uvicorn's protocol, which knows its peer and does not wait for ever."""

    def __init__(self, server: _Server) -> None:
        super().__init__(server.config, server.server_state, {})
        self._server = server
        self._room: Room | None = server.room
        self._head_timer: asyncio.TimerHandle | None = None
        self._take_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        peer: socket.socket = transport.get_extra_info("socket")
        if peer.family == socket.AF_UNIX:
            pid, uid, _ = _CREDENTIALS.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
            if uid not in (0, os.geteuid()):
                transport.abort()
            worker = self._server.guardian > 0 and is_worker(pid, self._server.guardian, os.getpid())
            self.app = Owner(self.app, uid, worker=worker)
        else:
            name = (transport.get_extra_info("peername") or ("",))[0]
            self.app = Visitor(self.app, functools.partial(self._server.limits.known, name))
        if not self._server.room.enter():
            self.app = full
        super().connection_made(transport)
        self._await_head()
        if self._server.closing:  # it was accepted as the doors closed: it comes again, to the next master
            transport.abort()

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
        if self._room is not None:
            self._room.leave(self)
            self._room = None
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._room is not None and not self.transport.is_closing() and self.cycle.response_complete:
            self._room.idle(self, self.transport)

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._take_timer is None:
            self._take_timer = self.loop.call_later(TAKE_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        if self._take_timer is not None:
            self._take_timer.cancel()
            self._take_timer = None
        super().resume_writing()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        if self._take_timer is None:  # what has not been taken yet is not waited for without end
            self._take_timer = self.loop.call_later(TAKE_SECONDS, self.transport.abort)

    def send_400_response(self, msg: str) -> None:
        """Answer what is no request with the error object."""
        hint = getattr(sys.exc_info()[1], "error_status_hint", 400)
        code = "headers_too_large" if hint == 431 else "bad_request"
        error = CommandError(code, "the head of the request is too long" if hint == 431 else msg)
        status = CODES[code][0]
        body = encoding.dumps(error.to_json()).encode() + b"\n"
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (b"cache-control", b"no-store"),
            (b"connection", b"close"),
        ]
        answer = h11.Response(status_code=status, headers=headers, reason=STATUS_PHRASES[status])
        with contextlib.suppress(h11.LocalProtocolError):  # an answer is under way already
            for event in (answer, h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(HEAD_SECONDS, self._too_slow)
        if self._room is not None:
            self._room.idle(self, self.transport)

    def _forget_head(self) -> None:
        if self._room is not None:
            self._room.busy(self)
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _too_slow(self) -> None:
        self._head_timer = None
        if self.cycle is None or self.cycle.response_complete:
            self.transport.abort()


class _Greeting(asyncio.Protocol):
    """A connection until its TLS handshake is done: it has a place in the room, and ``HEAD_SECONDS``."""

    def __init__(self, protocol: _Protocol, tls: ssl.SSLContext, room: Room) -> None:
        self._protocol = protocol
        self._tls = tls
        self._room = room
        self._early = bytearray()
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - for the type checker
        transport.pause_reading()
        if not self._room.enter():
            self._room.leave(self)
            transport.abort()
            return
        self._room.idle(self, transport)
        self._task = asyncio.get_running_loop().create_task(self._greet(transport))

    def data_received(self, data: bytes) -> None:
        self._early += data  # bounded: it came with the end of the handshake

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
