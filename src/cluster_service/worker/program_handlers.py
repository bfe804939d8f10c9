"""The program's own SIGTERM handlers: they run once the requests of the worker are answered.

A program that handles SIGTERM closes connections in its own way. Some servers call shutdown(2) on the listening socket,
which all workers share; others close a connection whose request is on its way. A thread of the runtime cannot reliably
act before such a handler, because Python runs it as soon as the main thread can. So the handlers are wrapped when the
program sets them: with ``signal.signal``, a loop's ``add_signal_handler``, or ``gevent.signal_handler``. The first
SIGTERM

1. replaces the listening sockets (``listener_parking``), so that the program closes or shuts down a replacement;
2. starts a thread that waits until the requests in progress are answered (``RunningServer.settle``);
3. is then sent again, and the program's handler runs.

If there is nothing to wait for, the handler runs at the first SIGTERM. ``signal.getsignal`` returns the program's own.
"""

from __future__ import annotations

import functools
import inspect
import signal
from typing import TYPE_CHECKING, Any, Callable, List

from .drains import RunningServer, call_server
from .stop_sequence import HELD
from .unpatched import get_ident, start_thread

if TYPE_CHECKING:
    from types import FrameType, ModuleType
    from typing import Optional, Protocol

    from .stop_sequence import StopSequence

    class StoppingWorker(Protocol):
        """The runtime, as the handlers of its program use it."""

        sequence: StopSequence
        servers: List[RunningServer]

        @property
        def is_fork(self) -> bool:
            """True in a process that the worker has forked."""

        @property
        def server_runs_callback(self) -> bool:
            """True if a server drains itself and runs ``on_worker_stop``."""

        @property
        def deadline(self) -> float:
            """The time (``time.monotonic()``) by which the worker should have exited."""

        def begin_stop(self) -> None:
            """Record that the worker must stop."""

        def run_callback_in_thread(self) -> None:
            """Run ``on_worker_stop`` in a thread."""

        def on_sigterm(self, signum: int, frame: Optional[FrameType]) -> None:
            """Handle SIGTERM, if the program does not."""

    class HasProgramHandlers(Protocol):
        """The runtime, as the import hooks use it."""

        program_handlers: ProgramHandlers


class _HeldHandler:
    """A wrapped handler of the program."""

    def __init__(self, handlers: ProgramHandlers, handler: Callable[..., Any]) -> None:
        self.handler = handler
        self._handlers = handlers

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.handler(*args, **kwargs) if self._handlers.may_run() else None


class ProgramHandlers:
    """Delays the program's SIGTERM handlers. Created once, in the main thread."""

    def __init__(self, runtime: StoppingWorker) -> None:
        self._runtime = runtime
        self._main = get_ident()
        self._watched = False
        """True if libev (gevent) handles the signal, which Python does not know."""
        self._signal, self._getsignal = signal.signal, signal.getsignal

    def install(self) -> None:
        """Wrap every SIGTERM handler that is set from now on, except that of the runtime."""

        @functools.wraps(self._signal)
        def set_handler(signalnum: Any, handler: Any) -> Any:
            if signalnum == signal.SIGTERM and callable(handler) and handler != self._runtime.on_sigterm:
                handler = _HeldHandler(self, handler)
            return _bare(self._signal(signalnum, handler))

        @functools.wraps(self._getsignal)
        def get_handler(signalnum: Any) -> Any:
            return _bare(self._getsignal(signalnum))

        signal.signal, signal.getsignal = set_handler, get_handler

    def are_set(self) -> bool:
        """Return True if the program has set a handler, which is wrapped."""
        return self._watched or isinstance(self._getsignal(signal.SIGTERM), _HeldHandler)

    def wrap_loop_handlers(self, loop_class: Any) -> None:
        """Wrap the handlers that the program adds to loops of *loop_class*, which receive signals through a pipe."""
        original = loop_class.add_signal_handler

        @functools.wraps(original)
        def add_signal_handler(loop: Any, sig: Any, callback: Any, *args: Any) -> Any:
            if sig == signal.SIGTERM and callable(callback) and not inspect.iscoroutinefunction(callback):
                callback = _HeldHandler(self, callback)
            return original(loop, sig, callback, *args)

        loop_class.add_signal_handler = add_signal_handler

    def wrap_gevent_handlers(self, watcher_class: Any) -> None:
        """Wrap the handlers that the program passes to ``gevent.signal_handler``, whose class is *watcher_class*."""
        original = watcher_class.__init__

        @functools.wraps(original)
        def watch(watcher: Any, signalnum: Any, handler: Any, *args: Any, **kwargs: Any) -> None:
            if signalnum == signal.SIGTERM and callable(handler):
                handler, self._watched = _HeldHandler(self, handler), True
            original(watcher, signalnum, handler, *args, **kwargs)

        watcher_class.__init__ = watch

    def may_run(self) -> bool:
        """Return True if the program's handler may run now; start settling at the first call. Main thread only."""
        runtime = self._runtime
        if runtime.is_fork:
            return True
        runtime.begin_stop()
        entered = runtime.sequence.move("hold")
        if entered is not None:  # the thread that settles or drains sends the signal again
            return entered == "settling" and not self._settles()
        return runtime.sequence.state not in HELD

    def _settles(self) -> bool:
        """Stop accepting; return True if a thread waits for requests, and False if the handler may run now."""
        servers = self._stop_accepting()
        if servers and start_thread(self._settle, servers):
            return True
        if self._runtime.sequence.move("settled"):
            self._runtime.run_callback_in_thread()
        return False

    def _stop_accepting(self) -> List[RunningServer]:
        """Stop accepting; return the servers to wait for."""
        runtime = self._runtime
        if runtime.server_runs_callback:
            return []
        from .drains.unknown_servers import UnknownServers  # only needed at a stop

        servers = [*runtime.servers, UnknownServers()]
        call_server(servers[-1], servers[-1].begin)
        return servers if any(each.has_open_requests() for each in servers) else []

    def _settle(self, servers: List[RunningServer]) -> None:
        for serving in servers:
            call_server(serving, serving.settle, self._runtime.deadline)
        if self._runtime.sequence.move("settled"):
            self.release()

    def release(self) -> None:
        """Send the signal again, which a drain has held back from the program's handler."""
        self._runtime.run_callback_in_thread()
        signal.pthread_kill(self._main, signal.SIGTERM)


def _bare(handler: Any) -> Any:
    return handler.handler if isinstance(handler, _HeldHandler) else handler


def wrap_handlers(module: ModuleType, runtime: HasProgramHandlers) -> None:
    """Wrap the SIGTERM handlers that the program sets with functions of asyncio, uvloop or gevent."""
    if module.__name__ == "gevent.hub":
        runtime.program_handlers.wrap_gevent_handlers(module.signal)
    elif module.__name__ == "uvloop":
        runtime.program_handlers.wrap_loop_handlers(module.Loop)
    else:
        loop_class: Any = module._UnixSelectorEventLoop  # noqa: SLF001 - base class of all asyncio loops
        runtime.program_handlers.wrap_loop_handlers(loop_class)
