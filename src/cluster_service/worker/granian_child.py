"""What granian's child does: loads the app, says when it is ready, serves, and drains when its parent says so.

The app is loaded here alone, so here its interface is told, whatever granian's supervisor was made for. An ASGI app is
ready when its lifespan has started, or when it turns out to have none; a WSGI app when it is loaded.

Granian's connections are the business of its Rust half, which closes at its stop whatever is not in the middle of a
request, also one whose request is on its way. They are drained from outside (``drains.outside``).
"""

from __future__ import annotations

import asyncio
import inspect
import signal
import sys
import time
from _thread import allocate_lock, get_ident
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Optional, Tuple

from .drains.outside import Outside
from .interface import interface_of
from .loading import load_app
from .pools import Pool
from .pulse import Beating, Pulse, counting_asgi, counting_wsgi
from .run import hide_our_frames
from .runtime import Runtime, current, install
from .sockets import is_listening
from .streams import Streams, ending_wsgi
from .threads import run_beside
from .titles import Titles

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

WSGI_THREADS = 40
"""Requests that a WSGI app answers at a time."""

_app: List[Any] = []


def load_in_child() -> Any:
    """Give granian the app, which ``Child`` has loaded."""
    return _app[0]


class Child:
    """Called in the child, in place of granian's own function that serves there, and with its arguments."""

    def __init__(self, target: str, pipe: Connection, channel: Optional[int], relay: Optional[int], board: int) -> None:
        self.target = target
        self.pipe = pipe
        self.channel = channel
        self.relay = relay
        """Where the supervisor passes on what comes on the channel, which it alone reads."""
        self.board = board

    def __reduce__(self) -> Any:
        """Travel to a child that is no fork, with the channel's descriptor."""
        from multiprocessing.reduction import DupFd  # noqa: PLC0415

        channel, relay = (None if each is None else DupFd(each) for each in (self.channel, self.relay))
        board = None if self.board < 0 else DupFd(self.board)
        return _arrive, (self.target, self.pipe, channel, relay, board)

    def __call__(self, *args: Any) -> None:
        """Be the child."""
        from granian.server import Server  # noqa: PLC0415 - in the child only

        runtime = current()
        if runtime is None:
            pulse = Pulse(self.board if self.board >= 0 else None)
            runtime = Runtime(self.channel, "none", pulse, Titles(None))
            install(runtime)
        else:
            runtime.pulse.take_over()
            runtime.titles.of_fork("server")
        if runtime.bus is not None and self.relay is not None:
            runtime.bus.listen(self.relay)
        try:
            app = load_app(self.target)
        except Exception as error:  # noqa: BLE001 - multiprocessing would print its own frames with it
            hide_our_frames(error)
            sys.excepthook(type(error), error, error.__traceback__)
            raise SystemExit(1) from None
        closing = Closing(app, interface_of(app), runtime)
        _app[:] = [closing]
        wsgi = closing.interface == "wsgi"
        spawn = Server._spawn_wsgi_worker if wsgi else Server._spawn_asgi_lifespan_worker  # noqa: SLF001
        if wsgi:
            closing.started()
            args = _with(args, spawn, blocking_threads=WSGI_THREADS)
        self.ended = allocate_lock()
        self.ended.acquire()
        run_beside(self._drain_when_told, runtime, closing, get_ident())
        try:
            spawn(*args)
        finally:
            self.ended.release()
        if runtime.stopping:
            runtime.callback.run(runtime.remaining)
            runtime.must_end(hurry=closing.streams.cancelled)

    def _insist(self, main: int) -> None:
        """See to it that the main thread gets the SIGTERM that the parent sends now, until granian has ended.

        It waits on a lock there (WSGI), which only a signal of its own wakes; and another thread that is just being
        started may take the process's.
        """
        while not self.ended.acquire(timeout=0.5):
            signal.pthread_kill(main, signal.SIGTERM)

    def _drain_when_told(self, runtime: Runtime, closing: Closing, main: int) -> None:
        try:
            runtime.begin(self.pipe.recv())
        except (EOFError, OSError):
            return  # the parent is gone, and the child's end is near
        closing.begin()
        try:
            closing.streams.await_end(runtime.deadline)
            Outside().drain(runtime.deadline)
        finally:
            closing.await_serving(runtime.deadline)
            runtime.must_end()
            self.pipe.send(None)
            self._insist(main)


def _arrive(target: str, pipe: Connection, channel: Any, relay: Any, board: Any) -> Child:
    opened = [None if each is None else each.detach() for each in (channel, relay, board)]
    return Child(target, pipe, opened[0], opened[1], -1 if opened[2] is None else opened[2])


def _with(args: Tuple[Any, ...], spawn: Callable[..., Any], **changes: Any) -> Tuple[Any, ...]:
    """The arguments, with those of *changes* replaced: found by name, counted from the end."""
    names = list(inspect.signature(spawn).parameters)
    found = list(args)
    for name, value in changes.items():
        if name in names:
            found[names.index(name) - len(names)] = value
    return tuple(found)


class Closing:
    """The app, whose answers say ``Connection: close`` once the worker stops. Until then it costs a call a request."""

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
            runtime.pulse.needs(pool.stuck)
            self._answer = counting_wsgi(ending_wsgi(pool.runs(app), lambda: runtime.stopping), runtime.pulse)
        else:
            self._answer = counting_asgi(self._answer, runtime.pulse, self.streams)
        self._plain: Callable[..., Any] = self._answer
        if interface != "wsgi":
            self._answer = self._lifespan_first

    def __call__(self, *args: Any) -> Any:
        """Be the app."""
        return self._answer(*args)

    def started(self) -> None:
        """The app is ready to be asked, and so is the worker as soon as granian listens, which comes next."""
        if self._started:
            return
        self._started = True
        if self.interface == "wsgi":
            run_beside(self._await_granian, None)
            run_beside(self._beat)
            return
        # Granian runs the loop a second time when it has begun to serve; a SIGTERM before that is one that it forgets.
        loop: Any = asyncio.get_running_loop()
        if self.runtime.bus is not None:
            self.runtime.bus.loop = loop
        run_until_complete = loop.run_until_complete

        def run_again(future: Any) -> Any:
            loop.run_until_complete = run_until_complete
            run_beside(self._await_granian, loop)
            return run_until_complete(future)

        loop.run_until_complete = run_again

    def _await_granian(self, loop: Optional[asyncio.AbstractEventLoop]) -> None:
        never = allocate_lock()
        never.acquire()
        while not is_listening():  # for milliseconds; where the address is taken, the process ends
            never.acquire(timeout=0.01)
        if loop is None:
            self._serves()
        else:
            loop.call_soon_threadsafe(self._serves)
            loop.call_soon_threadsafe(Beating, self.runtime.pulse, loop)

    def _beat(self) -> None:
        """Give the worker's beat: its threads are granian's own, and no loop turns."""
        never = allocate_lock()
        never.acquire()
        while True:
            self.runtime.pulse.interpreter_turns()
            never.acquire(timeout=self.runtime.pulse.pace)

    def await_serving(self, deadline: float) -> None:
        """Wait until granian hears SIGTERM, which comes next: it forgets one that comes before its loop serves."""
        never = allocate_lock()
        never.acquire()
        while not self.serving and time.monotonic() < deadline:
            never.acquire(timeout=0.01)

    def _serves(self) -> None:
        self.serving = True
        self.runtime.server_started()
        if self.interface != "wsgi":  # whose beat is given by no loop
            self.runtime.pulse.watch()

    def begin(self) -> None:
        """From now on, every answer is its connection's last, and those that never end are ended."""
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
                self.started()  # it has no lifespan, or has ended with it

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
