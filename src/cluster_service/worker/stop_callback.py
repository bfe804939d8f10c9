"""``on_worker_stop``: runs once, within the announced timeout, at any stage of the program; never fatal.

The function is called. If it returns an awaitable (an ``async def``), that is awaited on the event loop on which
``worker_ready`` was called, if it is running; else on the loop of the stopping server; else on a new one.
"""

from __future__ import annotations

import inspect
import sys
import threading  # imported in the main thread: the thread that imports it first counts as the main one
from typing import Any, Callable, List

from .unpatched import allocate_lock, library, running_loop

Remaining = Callable[[], float]

THREAD_NAME = "on_worker_stop"


class StopCallback:
    """The ``on_worker_stop`` callback of the program, if any."""

    def __init__(self) -> None:
        self._callbacks: List[
            Callable[[], Any]
        ] = []  # at most one; a list, because its pop is atomic and needs no lock
        self._loop: Any = None
        self._running = allocate_lock()

    @property
    def is_set(self) -> bool:
        """True if a callback is set that has not run."""
        return bool(self._callbacks)

    def set(self, callback: Callable[[], Any]) -> None:
        """Set the callback to run when the worker stops, replacing an earlier one."""
        self._callbacks = [callback]
        self._loop = running_loop()

    def _call(self) -> Any:
        """Call it unless it was called before; return its result, for the caller to await."""
        try:
            callback = self._callbacks.pop()
        except IndexError:
            return None
        try:
            return callback()
        except BaseException:  # SystemExit too: the worker is already stopping
            _show()
            return None

    def run_in_thread(self, remaining: Remaining) -> None:
        """Run it in a thread for which the interpreter waits: the end of the program does not interrupt the cleanup."""
        try:
            threading.Thread(target=self.run, args=(remaining,), name=THREAD_NAME, daemon=False).start()
        except RuntimeError:
            pass  # the interpreter is shutting down: the runtime runs it at exit

    def run(self, remaining: Remaining) -> None:
        """Run it in a thread without event loop. Return when it has ended, here or in another thread."""
        if not self._running.acquire(timeout=remaining()):
            return
        try:
            self._run(remaining)
        finally:
            self._running.release()

    def _run(self, remaining: Remaining) -> None:
        result = self._call()
        if not inspect.isawaitable(result):
            return
        import asyncio  # only if the program has an async function

        async def bounded() -> None:
            await asyncio.wait_for(result, remaining())

        loop = self._loop
        try:
            if loop is not None and loop.is_running():
                asyncio.run_coroutine_threadsafe(bounded(), loop).result()
            elif loop is not None and not loop.is_closed():
                loop.run_until_complete(bounded())
            else:
                asyncio.run(bounded())
        except BaseException:
            _show()

    async def run_in_loop(self, remaining: Remaining) -> None:
        """Run it in an event loop."""
        result = self._call()
        if not inspect.isawaitable(result):
            return
        import asyncio

        loop = self._loop
        try:
            if loop is not None and loop.is_running() and loop is not asyncio.get_running_loop():
                result = asyncio.wrap_future(asyncio.run_coroutine_threadsafe(_awaited(result), loop))
            await asyncio.wait_for(result, remaining())
        except BaseException:
            _show()


async def _awaited(result: Any) -> None:
    await result


def _show() -> None:
    """Print the current exception as the interpreter would, and continue."""
    error, value, trace = sys.exc_info()
    if error is SystemExit or error is None or value is None or sys.stderr is None:
        return
    sys.stderr.write("cservice: on_worker_stop failed:\n")
    traceback = library("traceback")
    here = __file__
    while trace is not None and trace.tb_frame.f_code.co_filename == here:
        trace = trace.tb_next
    traceback.print_exception(error, value, trace)
