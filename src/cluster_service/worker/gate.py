"""The program's own handlers of SIGTERM: they run once the worker has settled, not before.

A program that handles SIGTERM closes connections in its own way. Some servers call shutdown(2) on the listening socket,
which all workers share; others close a connection whose request is on its way. A thread of the runtime cannot act
before such a handler with certainty, because Python runs it as soon as the main thread can. So the handlers are wrapped
where the program sets them: with ``signal.signal``, a loop's ``add_signal_handler``, or ``gevent.signal_handler``. The
first SIGTERM

1. replaces the listening sockets (``aside``): the program then closes or shuts down a stand-in;
2. has a thread wait until the requests at hand are answered (``Serving.settle``);
3. is then sent again, and the program's handler runs.

If there is nothing to wait for, the handler runs at the first SIGTERM. ``signal.getsignal`` returns the program's own.
"""

from __future__ import annotations

import functools
import inspect
import signal
from typing import TYPE_CHECKING, Any, Callable, List

from .serving import Serving, guarded
from .threads import run_beside
from .unpatched import get_ident, os

if TYPE_CHECKING:
    from .runtime import Runtime


class _Held:
    """A handler of the program's, behind the gate."""

    def __init__(self, gate: Gate, handler: Callable[..., Any]) -> None:
        self.handler = handler
        self._gate = gate

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.handler(*args, **kwargs) if self._gate.is_open() else None


class Gate:
    """Holds the program's handlers of SIGTERM back. Made once, in the main thread."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._main = get_ident()
        self._begun = self._open = False
        self._watched = False
        """Whether libev handles the signal (gevent), which Python does not know of."""
        self._signal, self._getsignal = signal.signal, signal.getsignal

    def install(self) -> None:
        """Wrap every handler of SIGTERM that is set from now on, except for the runtime's."""

        @functools.wraps(self._signal)
        def set_handler(signalnum: Any, handler: Any) -> Any:
            if signalnum == signal.SIGTERM and callable(handler) and handler != self._runtime.on_sigterm:
                handler = _Held(self, handler)
            return _bare(self._signal(signalnum, handler))

        @functools.wraps(self._getsignal)
        def get_handler(signalnum: Any) -> Any:
            return _bare(self._getsignal(signalnum))

        signal.signal, signal.getsignal = set_handler, get_handler

    def holds(self) -> bool:
        """Return whether a handler of the program's is set, and held back."""
        return self._watched or isinstance(self._getsignal(signal.SIGTERM), _Held)

    def hold(self, loop_class: Any) -> None:
        """Hold back what the program gives to the loops of *loop_class*, which learn of a signal by a pipe, too."""
        original = loop_class.add_signal_handler

        @functools.wraps(original)
        def add_signal_handler(loop: Any, sig: Any, callback: Any, *args: Any) -> Any:
            if sig == signal.SIGTERM and callable(callback) and not inspect.iscoroutinefunction(callback):
                callback = _Held(self, callback)
            return original(loop, sig, callback, *args)

        loop_class.add_signal_handler = add_signal_handler

    def hold_watchers(self, watcher_class: Any) -> None:
        """Hold back what the program gives to ``gevent.signal_handler``, of which *watcher_class* is the class."""
        original = watcher_class.__init__

        @functools.wraps(original)
        def watch(watcher: Any, signalnum: Any, handler: Any, *args: Any, **kwargs: Any) -> None:
            if signalnum == signal.SIGTERM and callable(handler):
                handler, self._watched = _Held(self, handler), True
            original(watcher, signalnum, handler, *args, **kwargs)

        watcher_class.__init__ = watch

    def is_open(self) -> bool:
        """Return whether the program's handler is to run now. The first time, begin to settle. In the main thread."""
        if self._open or self._runtime.pid != os.getpid():
            return True
        if not self._begun:
            self._begun = True
            waits = self._begin()
            if not waits or not run_beside(self._settle, waits):
                self._let_run()
        return self._open

    def _begin(self) -> List[Serving]:
        """Stop accepting; return what is to be waited for."""
        runtime = self._runtime
        runtime.begin()
        if runtime.server_runs_callback:
            return []
        from .drains.rest import Rest  # noqa: PLC0415 - at the stop only

        servings = [*runtime.servings, Rest()]
        guarded(servings[-1], servings[-1].begin)
        return servings if any(each.holds() for each in servings) else []

    def _settle(self, servings: List[Serving]) -> None:
        for serving in servings:
            guarded(serving, serving.settle, self._runtime.deadline)
        self._let_run()
        signal.pthread_kill(self._main, signal.SIGTERM)

    def _let_run(self) -> None:
        self._open = True
        self._runtime.stop_beside()


def _bare(handler: Any) -> Any:
    return handler.handler if isinstance(handler, _Held) else handler
