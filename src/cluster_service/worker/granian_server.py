"""Serves an app on granian: its small supervisor in the worker's process, its server in one child.

The child loads the app, so its interface is detected there, whatever granian's supervisor was configured for. An ASGI
app is ready when its lifespan has started or it turns out to have none; a WSGI app when it is loaded.

At a stop the supervisor makes the child drain its connections first. Granian's Rust code owns the connections, and its
own stop closes those without a request in progress, even if a request is on its way. So they are drained from outside
(``drains.unknown_servers``). Granian's own stop follows.
"""

from __future__ import annotations

import asyncio
import inspect
import signal
import socket
import sys
from multiprocessing import Pipe
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Optional, Tuple

import granian

from cluster_service.wire import addresses

from .app_loader import interface_of, load_app
from .app_sockets import open_listeners
from .app_wrappers import Streams, count_asgi_answers, count_wsgi_answers, end_wsgi_streams
from .descriptors import is_listening
from .drains.unknown_servers import OutsideDrain
from .heartbeat import Heartbeat, LoopHeartbeat, Pool
from .reporting import CANNOT_SERVE, exit_with_message, hide_our_frames
from .runtime import Runtime, current, install
from .unpatched import allocate_lock, get_ident, start_thread, time
from .worker_process import ProcessTitle

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

BACKLOG = 1024


def serve(target: str, binds: List[str], runtime: Runtime) -> None:
    """Serve *target* until the worker stops. Ends with SystemExit."""
    if len(binds) != 1:
        exit_with_message(
            f"granian serves one address, not {len(binds)}: use one --bind, or --server uvicorn", CANNOT_SERVE
        )
    try:
        address = addresses.parse(binds[0])
    except addresses.AddressError as error:
        exit_with_message(str(error), CANNOT_SERVE)
    place: Dict[str, Any] = {"address": address.host, "port": address.port}
    if address.path is not None:
        place = {"uds": Path(address.path)}
    server = _Granian(target, interface="asgi", backlog=BACKLOG, **place)
    server.worker = runtime
    if runtime.share in ("python", "inherit"):
        (server.listener,) = open_listeners(binds, runtime.share)
    server.serve(server.prepare(target), load_in_child, wrap_loader=False)
    raise SystemExit(0)


class _Granian(granian.Granian):  # type: ignore[misc,valid-type]
    """Granian with one worker."""

    worker: Runtime
    listener: Optional[socket.socket] = None
    """Our own socket, if granian's would not be the shared one."""
    _child: Any
    _childs_end: Any
    _code = 0

    def prepare(self, target: str) -> Child:
        """Return the callable for the child."""
        self._child, self._childs_end = Pipe()
        heartbeat, bus, relay = self.worker.heartbeat, self.worker.bus, None
        if bus is not None:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            bus.relay(ours.detach())
            relay = theirs.detach()
        heartbeat.stop_writing()  # the child writes to the board from now on
        return Child(target, self._childs_end, self.worker.channel_fd, relay, heartbeat.descriptor)

    def serve(self, *args: Any, **kwargs: Any) -> None:
        try:
            super().serve(*args, **kwargs)
        except SystemExit:
            if self._code:
                raise SystemExit(self._code) from None  # the child's exit code
            raise

    def _stop_workers(self) -> None:
        self._childs_end.close()
        try:
            self._child.send(self.worker.remaining())
            self._child.poll(self.worker.remaining())
        except OSError:
            pass  # the child has exited
        processes = [worker.inner for worker in self.wrks]
        super()._stop_workers()
        self._code = max((process.exitcode or 0 for process in processes), default=0)

    def _init_shared_socket(self) -> None:
        """Use our own socket, if there is one. Relies on internals of granian, unchanged since version 2.0."""
        if self.listener is None:
            super()._init_shared_socket()
            return
        from granian._granian import SocketHolder  # only in these modes

        self.listener.listen(BACKLOG)
        self.listener.set_inheritable(True)
        self._ssp = None
        self._sso = self.listener
        self._sfd = self.listener.fileno()
        self._shd = SocketHolder(self._sfd, self.listener.family == socket.AF_UNIX, BACKLOG)  # type: ignore[call-arg,unused-ignore]


WSGI_THREADS = 40
"""Number of requests that a WSGI app answers concurrently."""

_app: List[Any] = []


def load_in_child() -> Any:
    """Return the app, which ``Child`` has loaded, to granian."""
    return _app[0]


class Child:
    """Replaces granian's function that serves in the child, and takes its arguments."""

    def __init__(self, target: str, pipe: Connection, channel: Optional[int], relay: Optional[int], board: int) -> None:
        self.target = target
        self.pipe = pipe
        self.channel = channel
        self.relay = relay
        """The descriptor on which the supervisor, the only reader of the channel, forwards its messages."""
        self.board = board

    def __reduce__(self) -> Any:
        """Pickle for a child that is not a fork, including the descriptors."""
        from multiprocessing.reduction import DupFd

        channel, relay = (None if each is None else DupFd(each) for each in (self.channel, self.relay))
        board = None if self.board < 0 else DupFd(self.board)
        return _arrive, (self.target, self.pipe, channel, relay, board)

    def __call__(self, *args: Any) -> None:
        """Run the child."""
        from granian.server import Server  # in the child only

        runtime = current()
        if runtime is None:
            heartbeat = Heartbeat(self.board if self.board >= 0 else None)
            runtime = Runtime(self.channel, "none", heartbeat, ProcessTitle(None))
            install(runtime)
        else:
            runtime.heartbeat.start_writing()
            runtime.title.show_fork_role("server")
        if runtime.bus is not None and self.relay is not None:
            runtime.bus.listen(self.relay)
        try:
            app = load_app(self.target)
        except Exception as error:  # noqa: BLE001 - multiprocessing would print its own frames too
            hide_our_frames(error)
            sys.excepthook(type(error), error, error.__traceback__)
            raise SystemExit(1) from None
        closing = GranianApp(app, interface_of(app), runtime)
        _app[:] = [closing]
        wsgi = closing.interface == "wsgi"
        spawn = Server._spawn_wsgi_worker if wsgi else Server._spawn_asgi_lifespan_worker  # noqa: SLF001 - no public name
        if wsgi:
            closing.started()
            args = _with(args, spawn, blocking_threads=WSGI_THREADS)
        self.ended = allocate_lock()
        self.ended.acquire()
        start_thread(self._drain_when_told, runtime, closing, get_ident())
        try:
            spawn(*args)
        finally:
            self.ended.release()
        if runtime.stopping:
            runtime.callback.run(runtime.remaining)
            runtime.ensure_exit(hurry=closing.streams.cancelled)

    def _repeat_sigterm(self, main: int) -> None:
        """Send SIGTERM to the main thread repeatedly until granian has ended.

        With WSGI the main thread waits on a lock, from which only a signal to that thread wakes it; a signal to the
        process may be delivered to another thread that is just starting.
        """
        while not self.ended.acquire(timeout=0.5):
            signal.pthread_kill(main, signal.SIGTERM)

    def _drain_when_told(self, runtime: Runtime, closing: GranianApp, main: int) -> None:
        try:
            runtime.begin_stop(self.pipe.recv())
        except (EOFError, OSError):
            return  # the parent has died, and the child is about to end
        closing.begin()
        try:
            closing.streams.await_end(runtime.deadline)
            OutsideDrain().drain(runtime.deadline)
        finally:
            closing.await_serving(runtime.deadline)
            runtime.ensure_exit()
            self.pipe.send(None)
            self._repeat_sigterm(main)


def _arrive(target: str, pipe: Connection, channel: Any, relay: Any, board: Any) -> Child:
    opened = [None if each is None else each.detach() for each in (channel, relay, board)]
    return Child(target, pipe, opened[0], opened[1], -1 if opened[2] is None else opened[2])


def _with(args: Tuple[Any, ...], spawn: Callable[..., Any], **changes: Any) -> Tuple[Any, ...]:
    """Return the arguments with *changes* applied, by name; positions are counted from the end."""
    names = list(inspect.signature(spawn).parameters)
    found = list(args)
    for name, value in changes.items():
        if name in names:
            found[names.index(name) - len(names)] = value
    return tuple(found)


class GranianApp:
    """Wraps the app and adds ``Connection: close`` to its answers once the worker stops."""

    def __init__(self, app: Any, interface: str, runtime: Runtime) -> None:
        self.app = app
        self.interface = interface
        self.runtime = runtime
        self.serving = False
        self._started = False
        self._answer: Callable[..., Any] = app
        if interface == "asgi2":
            self._answer = lambda scope, receive, send: app(scope)(receive, send)
        self.streams = Streams(cancel_first=True)
        if interface == "wsgi":
            pool = Pool(WSGI_THREADS)
            runtime.heartbeat.add_pool(pool.is_stuck)
            ending = end_wsgi_streams(pool.wrap(app), lambda: runtime.stopping)
            self._answer = count_wsgi_answers(ending, runtime.heartbeat)
        else:
            self._answer = count_asgi_answers(self._answer, runtime.heartbeat, self.streams)
        self._plain: Callable[..., Any] = self._answer
        if interface != "wsgi":
            self._answer = self._lifespan_first

    def __call__(self, *args: Any) -> Any:
        """Call the app."""
        return self._answer(*args)

    def started(self) -> None:
        """Record that the app is ready; the worker is ready as soon as granian listens, which follows."""
        if self._started:
            return
        self._started = True
        if self.interface == "wsgi":
            start_thread(self._await_granian, None)
            start_thread(self._beat)
            return
        # Granian runs the loop a second time once it serves; a SIGTERM before that is lost.
        loop: Any = asyncio.get_running_loop()
        if self.runtime.bus is not None:
            self.runtime.bus.loop = loop
        run_until_complete = loop.run_until_complete

        def run_again(future: Any) -> Any:
            loop.run_until_complete = run_until_complete
            start_thread(self._await_granian, loop)
            return run_until_complete(future)

        loop.run_until_complete = run_again

    def _await_granian(self, loop: Optional[asyncio.AbstractEventLoop]) -> None:
        never = allocate_lock()
        never.acquire()
        while not is_listening():  # takes milliseconds; if the address is in use, the process ends
            never.acquire(timeout=0.01)
        if loop is None:
            self._serves()
        else:
            loop.call_soon_threadsafe(self._serves)
            loop.call_soon_threadsafe(LoopHeartbeat, self.runtime.heartbeat, loop)

    def _beat(self) -> None:
        """Send the heartbeat of the worker: its threads belong to granian, and there is no loop."""
        never = allocate_lock()
        never.acquire()
        while True:
            self.runtime.heartbeat.beat_without_loop()
            never.acquire(timeout=self.runtime.heartbeat.interval)

    def await_serving(self, deadline: float) -> None:
        """Wait until granian handles SIGTERM: one that arrives before its loop serves is lost."""
        never = allocate_lock()
        never.acquire()
        while not self.serving and time.monotonic() < deadline:
            never.acquire(timeout=0.01)

    def _serves(self) -> None:
        self.serving = True
        self.runtime.server_started()
        if self.interface != "wsgi":  # with WSGI, no loop sends the heartbeat
            self.runtime.heartbeat.watch_loop()

    def begin(self) -> None:
        """Close connections after their next answer, and end endless answers."""
        self.streams.end()
        self._answer = self._wsgi_closing if self.interface == "wsgi" else self._asgi_closing

    def _lifespan_first(self, scope: Dict[str, Any], receive: Any, send: Any) -> Any:
        self._answer = self._plain
        if scope["type"] == "lifespan":
            return self._lifespan(scope, receive, send)
        self.started()
        return self._plain(scope, receive, send)

    async def _lifespan(self, scope: Dict[str, Any], receive: Any, send: Any) -> None:
        failed = False

        async def told(message: Dict[str, Any]) -> None:
            nonlocal failed
            await send(message)
            if message["type"] == "lifespan.startup.complete":
                self.started()
            failed = failed or message["type"].endswith(".failed")

        try:
            await self._plain(scope, receive, told)
        finally:
            if not failed:
                self.started()  # it has no lifespan, or has finished it

    async def _asgi_closing(self, scope: Dict[str, Any], receive: Any, send: Any) -> None:
        async def closing(message: Dict[str, Any]) -> None:
            if message["type"] == "http.response.start" and str(scope.get("http_version", "1.1")).startswith("1"):
                message = {**message, "headers": [*message.get("headers", ()), (b"connection", b"close")]}
            await send(message)

        await self._plain(scope, receive, closing)

    def _wsgi_closing(self, environ: Dict[str, Any], start_response: Any) -> Any:
        def closing(status: str, headers: List[Tuple[str, str]], *exc_info: Any) -> Any:
            if str(environ.get("SERVER_PROTOCOL", "HTTP/1.1")).startswith("HTTP/1"):
                headers = [*headers, ("connection", "close")]
            return start_response(status, headers, *exc_info)

        return self._plain(environ, closing)
