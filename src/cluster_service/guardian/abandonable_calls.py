"""System calls of the log writer on a worker's pipe, each made in a thread because the worker can block it.

read(2) and close(2) take the pipe's lock, even with O_NONBLOCK. A process that has the pipe open can hold that lock
indefinitely by writing from memory whose pages it supplies itself (userfaultfd(2), FUSE). No signal interrupts the wait
for the lock, not even SIGKILL. A call that takes too long is therefore abandoned to its thread, and another thread
makes the next call.
"""

from __future__ import annotations

import _thread  # the modules threading and queue are large
from _queue import SimpleQueue
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE_SECONDS = 1.0
"""Time after which a call is abandoned to its thread."""
_STACK_BYTES = 256 * 1024


class Call:
    """Call of *function*, which may raise OSError."""

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
        """Wait for *seconds* at most until the call has returned. Return whether it has."""
        if self._running.acquire(timeout=seconds):
            self._running.release()
        return self.is_done

    def result(self) -> Any:
        """Return the result of the call, or raise its OSError."""
        if self._error is not None:
            raise self._error
        return self._result


class _Thread:
    """Thread that makes calls one after the other, until it is dismissed."""

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
    """Runner of calls that waits for a limited time for each, by default ``PATIENCE_SECONDS``."""

    def __init__(self) -> None:
        self._idle: _Thread | None = None

    def run(self, function: Callable[..., Any], *arguments: Any, patience: float = PATIENCE_SECONDS) -> Call:
        """Call *function*; return after *patience* seconds at most, even if the call has not returned yet.

        If no thread can be started, the call is made in the current thread, and may block.
        """
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
