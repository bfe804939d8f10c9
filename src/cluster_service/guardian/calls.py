"""Calls on a worker's pipe by the log writer, each made in a thread because the worker can make it wait.

read(2) and close(2) take the lock of a pipe, also with O_NONBLOCK. A process that has the pipe open holds that lock as
long as it likes if it writes from memory whose pages it supplies itself (userfaultfd(2), FUSE). No signal ends the wait
for the lock, not even SIGKILL. A call that takes too long is therefore left to its thread, and the next call is made in
another one.
"""

from __future__ import annotations

import _thread  # the modules threading and queue are large
from _queue import SimpleQueue
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE_SECONDS = 1.0
"""Time after which a call is left to its thread."""
_STACK_BYTES = 256 * 1024


class Call:
    """One call of *function*, which may raise OSError."""

    def __init__(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        self._function = function
        self._arguments = arguments
        self._result: Any = None
        self._error: OSError | None = None
        self._running = _thread.allocate_lock()
        self._running.acquire()

    @property
    def is_done(self) -> bool:
        """True once the call has returned."""
        return not self._running.locked()

    def make(self) -> None:
        """Make the call."""
        try:
            self._result = self._function(*self._arguments)
        except OSError as error:
            self._error = error
        finally:
            self._running.release()

    def wait(self, seconds: float) -> bool:
        """Wait until the call has returned, *seconds* at most. Return whether it has."""
        if self._running.acquire(timeout=seconds):
            self._running.release()
        return self.is_done

    def result(self) -> Any:
        """Return what the call has returned. Raises its OSError."""
        if self._error is not None:
            raise self._error
        return self._result


class _Thread:
    """Makes calls one after the other, until it is dismissed."""

    def __init__(self) -> None:
        self._calls: SimpleQueue[Call | None] = SimpleQueue()
        _thread.stack_size(_STACK_BYTES)
        _thread.start_new_thread(self._run, ())

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            call.make()

    def make(self, call: Call) -> None:
        """Make *call* after those before it."""
        self._calls.put(call)

    def dismiss(self) -> None:
        """End the thread after its current call."""
        self._calls.put(None)


class Calls:
    """Makes calls, of which one waits for as long as ``PATIENCE_SECONDS`` and no longer."""

    def __init__(self) -> None:
        self._idle: _Thread | None = None

    def run(self, function: Callable[..., Any], *arguments: Any, patience: float = PATIENCE_SECONDS) -> Call:
        """Call *function*; return after *patience* seconds at most, when the call may not have returned yet."""
        call = Call(function, arguments)
        try:
            thread, self._idle = self._idle or _Thread(), None
        except RuntimeError:  # no thread can be started
            call.make()
            return call
        thread.make(call)
        if call.wait(patience):
            self._idle = thread
        else:
            thread.dismiss()
        return call
