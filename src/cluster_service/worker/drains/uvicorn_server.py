"""uvicorn, however the program starts it.

At its shutdown, uvicorn alone closes every connection without a request in progress, including one that it has just
accepted and whose request is on its way: that request is lost. Here its shutdown is preceded by a drain:

1. The listeners are closed, so that other workers accept new connections (the guardian keeps the sockets open).
2. Every further answer says ``Connection: close``.
3. Each connection gets its time (``open_connections``): a new one for its first request, an idle one for the next
   request of a busy client, a busy one until it is answered. WebSockets and event streams are ended (``app_wrappers``).
4. When all are closed, or the deadline is near, uvicorn's own shutdown ends the rest, and the lifespan.

Then ``on_worker_stop`` runs on the loop of the server. If this version of uvicorn lacks something, uvicorn shuts down
in its own way.

An app that the service serves runs with uvicorn's default configuration, our sockets and our readiness report.
"""

from __future__ import annotations

import asyncio
import functools
import signal
import socket
import threading
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Optional, Tuple

from ..app_wrappers import GRACE, Streams, count_asgi_answers, end_wsgi_streams
from ..descriptors import borrowed_socket
from ..heartbeat import Pool
from ..reporting import warn
from ..unpatched import select
from . import RunningServer
from .open_connections import IDLE_GRACE, NEW_GRACE

if TYPE_CHECKING:
    from types import ModuleType

    from ..runtime import Runtime

_CLOSE = (b"connection", b"close")
_TICK = 0.02
"""Seconds between two checks of the connections; uvicorn itself checks every 0.1 s."""
_GOODBYE = 2 * GRACE
"""Seconds for the closing handshake of a WebSocket, after which uvicorn closes it in its own way."""
_ACCEPTED = 5
"""Iterations of the loop after which an accepted connection is listed by the server."""


class UvicornServer(RunningServer):
    """A running uvicorn server. uvicorn handles SIGTERM itself only in the main thread; else ``begin`` stops it."""

    runs_callback = True

    def __init__(self, server: Any) -> None:
        self.server = server
        self.ended = threading.Event()

    def begin(self) -> None:
        """Make the server leave its loop."""
        self.server.should_exit = True

    def drain(self, deadline: float) -> None:
        """Wait until the server has ended."""
        del deadline  # known to the drain inside the server
        self.ended.wait()


def drain_servers(module: ModuleType, runtime: Runtime) -> None:
    """Drain every server of the class ``module.Server`` before it shuts down."""
    server_class = module.Server
    streams = Streams()
    run, serve, startup, on_tick, handle_exit = (
        server_class.run,
        server_class.serve,
        server_class.startup,
        server_class.on_tick,
        server_class.handle_exit,
    )

    @functools.wraps(run)
    def run_and_leave(self: Any, *args: Any, **kwargs: Any) -> Any:
        self._cservice_run = True
        result = run(self, *args, **kwargs)
        if runtime.stopping and runtime.handles_sigterm():
            runtime.leave()
        return result

    @functools.wraps(serve)
    async def serve_and_tell(self: Any, *args: Any, **kwargs: Any) -> Any:
        running = UvicornServer(self)
        runtime.add_server(running)
        self._cservice_running = running
        if runtime.bus is not None:
            runtime.bus.loop = asyncio.get_running_loop()
        try:
            return await serve(self, *args, **kwargs)
        finally:
            runtime.remove_server(running)
            runtime.heartbeat.loop_ended(self)
            running.ended.set()

    @functools.wraps(startup)
    async def count_and_start(self: Any, *args: Any, **kwargs: Any) -> Any:
        self.config.loaded_app = count_asgi_answers(self.config.loaded_app, runtime.heartbeat, streams)
        return await startup(self, *args, **kwargs)

    @functools.wraps(on_tick)
    async def beat_and_tick(self: Any, *args: Any, **kwargs: Any) -> Any:
        runtime.heartbeat.beat(self)
        return await on_tick(self, *args, **kwargs)

    @functools.wraps(handle_exit)
    def note_and_exit(self: Any, sig: int, *args: Any, **kwargs: Any) -> Any:
        if sig == signal.SIGTERM:
            runtime.begin_stop()
        return handle_exit(self, sig, *args, **kwargs)

    server_class.run = run_and_leave
    server_class.serve = serve_and_tell
    server_class.startup = count_and_start
    server_class.on_tick = beat_and_tick
    server_class.shutdown = _draining(server_class.shutdown, runtime, streams)
    server_class.handle_exit = note_and_exit


def _draining(shutdown: Callable[..., Any], runtime: Runtime, streams: Streams) -> Callable[..., Any]:
    """Return *shutdown*, the method of a server, wrapped to drain the server first."""

    @functools.wraps(shutdown)
    async def drain_and_shutdown(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            await Drain(self, runtime, streams).run()
        except Exception as error:  # noqa: BLE001 - an unknown version: it shuts down in its own way
            warn(f"uvicorn could not be drained, and shuts down in its own way: {error!r}")
        result = await shutdown(self, *args, **kwargs)
        if runtime.stopping:
            await runtime.callback.run_in_loop(runtime.remaining)
        # Next, serve() sends itself the signal again, for the previous handler, which is ours. If run() is about to end
        # its loop anyway, that would be too early: run() then replaces the signal.
        runtime.remove_server(getattr(self, "_cservice_running", None))
        captured = getattr(self, "_captured_signals", [])
        if runtime.stopping and getattr(self, "_cservice_run", False):
            captured[:] = [each for each in captured if each != signal.SIGTERM]
            runtime.ensure_exit(hurry=streams.cancelled)
        return result

    return drain_and_shutdown


class Drain:
    """The clean shutdown of one server's connections."""

    def __init__(self, server: Any, runtime: Runtime, streams: Streams) -> None:
        self.server = server
        self.streams = streams
        self.loop = asyncio.get_running_loop()
        self.deadline = self.loop.time() + runtime.remaining()
        self._marks: Dict[Any, Tuple[str, float]] = {}
        """The state of each connection, and since when it has it."""

    async def run(self) -> None:
        """Return when no connection is left or the deadline has passed."""
        server, config = self.server, self.server.config
        for listener in server.servers:
            listener.close()
        server.server_state.default_headers.append(_CLOSE)  # in place: requests in progress share the list
        if config.timeout_graceful_shutdown is not None:
            self.deadline = min(self.deadline, self.loop.time() + config.timeout_graceful_shutdown)
        for _ in range(_ACCEPTED):
            await asyncio.sleep(0)
        self.streams.end()
        connections = server.server_state.connections
        while connections and not server.force_exit and self.loop.time() < self.deadline:
            for connection in list(connections):
                self._look_at(connection)
            await asyncio.sleep(_TICK)
        await self.streams.ended()
        server.server_state.tasks -= self.streams.abandoned  # in place: connections share the set
        config.timeout_graceful_shutdown = max(0.5, self.deadline - self.loop.time())

    def _look_at(self, connection: Any) -> None:
        now = self.loop.time()
        state, since = _state_of(connection)
        known = self._marks.get(connection)
        if known is None or known[0] != state:
            self._marks[connection] = state, now if since is None else since
        if state == "busy":
            _close_after_answer(connection.cycle)
        grace = {"new": NEW_GRACE, "idle": IDLE_GRACE, "other": _GOODBYE}.get(state)
        if grace is not None and self._marks[connection][1] + grace <= now and not _has_come(connection):
            if state == "idle":
                _hang_up(connection)
            connection.shutdown()


def _state_of(connection: Any) -> Tuple[str, Optional[float]]:
    """Return the state new, idle, busy (as in ``open_connections``) or other, and since when, if known."""
    if not hasattr(connection, "cycle"):
        return "other", None
    if connection.cycle is None:
        return "new", None
    if not connection.cycle.response_complete or getattr(connection, "pipeline", None):
        return "busy", None
    timer = connection.timeout_keep_alive_task
    if timer is None:
        return "new", None  # part of the next request has arrived
    return "idle", timer.when() - connection.timeout_keep_alive


def _close_after_answer(cycle: Any) -> None:
    """Add ``Connection: close`` to an answer that has not begun; one that has begun cannot be changed."""
    if cycle.response_started:
        return
    cycle.keep_alive = False
    if _CLOSE not in cycle.default_headers:
        cycle.default_headers = [*cycle.default_headers, _CLOSE]


def _hang_up(connection: Any) -> None:
    """Notify the client immediately rather than in the next loop iteration: what it sends until then is lost."""
    peer = connection.transport.get_extra_info("socket")
    if peer is None or connection.transport.get_extra_info("ssl_object") is not None:
        return
    try:
        with borrowed_socket(peer.fileno()) as each:
            each.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # the client has closed it


def _has_come(connection: Any) -> bool:
    """Return True if unread data from the client has arrived."""
    peer = connection.transport.get_extra_info("socket")
    if peer is None or peer.fileno() < 0:
        return False
    poll = select.poll()
    poll.register(peer.fileno(), select.POLLIN)
    return bool(poll.poll(0))


WSGI_THREADS = 40
"""Number of requests that a WSGI app answers concurrently, as starlette does for synchronous endpoints."""


def serve(app: Any, interface: str, binds: List[str], runtime: Runtime) -> None:
    """Serve *app* until the worker stops. Ends with SystemExit; the code is not 0 if the startup of the app failed."""
    import uvicorn  # this module also drains servers that the program starts

    from ..app_sockets import open_listeners, own_listener

    class Server(uvicorn.Server):
        async def startup(self, sockets: Optional[List[socket.socket]] = None) -> None:
            await super().startup(sockets=sockets)
            if self.started and not self.should_exit:
                uvicorn.server.logger.info("Uvicorn running on %s", ", ".join(binds))
                runtime.server_started()

    if interface == "wsgi":
        from a2wsgi import WSGIMiddleware  # only for WSGI

        pool = Pool(WSGI_THREADS)
        runtime.heartbeat.add_pool(pool.is_stuck)
        ending = end_wsgi_streams(pool.wrap(app), lambda: runtime.stopping)
        app, interface = WSGIMiddleware(ending, workers=WSGI_THREADS), "asgi3"
    config = uvicorn.Config(app, interface=interface, workers=1)  # type: ignore[arg-type]
    listeners = open_listeners(binds, runtime.share)
    server = Server(config)
    server.run(sockets=[*listeners, *own_listener(runtime)])
    raise SystemExit(0 if server.started else 3)
