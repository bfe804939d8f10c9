"""``on_worker_stop``: run once, wherever the stop finds the program, within the time announced; never fatal.

A function is called. Where it returns an awaitable (an ``async def``), that is awaited on the event loop on which
``worker_ready`` was called, as long as that one runs; else on the loop of the server that stops; else on a fresh one.
"""

from __future__ import annotations

import inspect
import sys
from typing import Any, Callable, List

from .midst import running_loop
from .shadowed import library
from .unpatched import allocate_lock

Remaining = Callable[[], float]


class StopCallback:
    """The program's ``on_worker_stop``, or none."""

    def __init__(self) -> None:
        self._callbacks: List[
            Callable[[], Any]
        ] = []  # at most one; a list, because its pop is atomic and needs no lock
        self._loop: Any = None
        self._running = allocate_lock()

    @property
    def given(self) -> bool:
        """Whether there is one that has not been run."""
        return bool(self._callbacks)

    def set(self, callback: Callable[[], Any]) -> None:
        """Run *callback* when the worker stops, and none that was set before."""
        self._callbacks = [callback]
        self._loop = running_loop()

    def _call(self) -> Any:
        """Call it, if nobody has. What it returns is awaited by the caller when it can be."""
        try:
            callback = self._callbacks.pop()
        except IndexError:
            return None
        try:
            return callback()
        except BaseException:  # noqa: BLE001 - SystemExit too: the worker is ending already
            _show()
            return None

    def run(self, remaining: Remaining) -> None:
        """Run it from a thread that has no event loop. Return when it has ended, here or elsewhere."""
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
        import asyncio  # noqa: PLC0415 - only where the program has an async function

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
        except BaseException:  # noqa: BLE001
            _show()

    async def run_in_loop(self, remaining: Remaining) -> None:
        """Run it from an event loop."""
        result = self._call()
        if not inspect.isawaitable(result):
            return
        import asyncio  # noqa: PLC0415

        loop = self._loop
        try:
            if loop is not None and loop.is_running() and loop is not asyncio.get_running_loop():
                result = asyncio.wrap_future(asyncio.run_coroutine_threadsafe(_awaited(result), loop))
            await asyncio.wait_for(result, remaining())
        except BaseException:  # noqa: BLE001
            _show()


async def _awaited(result: Any) -> None:
    await result


def _show() -> None:
    """Print the exception at hand, as the interpreter would, and go on."""
    error, value, trace = sys.exc_info()
    if error is SystemExit or error is None or value is None or sys.stderr is None:
        return
    sys.stderr.write("cservice: on_worker_stop failed:\n")
    traceback = library("traceback")
    here = __file__
    while trace is not None and trace.tb_frame.f_code.co_filename == here:
        trace = trace.tb_next
    traceback.print_exception(error, value, trace)
