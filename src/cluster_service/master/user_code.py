"""Execution of user code in the master, isolated from exceptions, blocking and hangs.

A function runs in its own thread, an ``async def`` on the master's event loop. Both have a timeout. A function that
exceeds it keeps its thread until it returns; to bound the number of such threads, at most ``MOST`` handlers run at a
time. The threads are daemons, so a master exits without waiting for them. (An ``async def`` that blocks blocks the
master; the guardian replaces an unresponsive master.)
"""

from __future__ import annotations

import asyncio
import inspect
import threading
import traceback
from typing import TYPE_CHECKING, Any

from cluster_service.machine import shortage

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

Outcome = tuple[Any, BaseException | None]
"""The result, and the exception that was raised."""

MOST = 128
"""Maximum command handlers that run at the same time, including those that exceeded their timeout."""


class Late(Exception):
    """The handler exceeded its timeout."""


class Crowded(Exception):
    """Too many handlers are running."""


class Unstarted(Exception):
    """The handler could not be started for lack of a thread or of memory."""


class Raised(Exception):
    """The handler raised ``error``."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(str(error))
        self.error = error

    def story(self) -> str:
        """Return the traceback, without our own frames above the user's."""
        trace = self.error.__traceback__
        while trace is not None and trace.tb_next is not None and _is_ours(trace.tb_frame.f_code.co_filename):
            trace = trace.tb_next
        return "".join(traceback.format_exception(type(self.error), self.error, trace)).rstrip()


def _is_ours(filename: str) -> bool:
    ours = ("master/custom_command_registry.py", "master/command_context.py", "master/hooks.py")
    return filename == __file__ or filename.endswith(ours)


class Handlers:
    """The running handlers."""

    def __init__(self, most: int = MOST) -> None:
        self.most = most
        self.at_work = 0

    async def run(self, call: Callable[[], Any], seconds: float, *, on_loop: bool) -> Any:
        """Return the result of ``call()``, awaited if it is awaitable. Raises Late, Crowded, Unstarted and Raised.

        *seconds*: timeout. *on_loop*: call it on the event loop rather than in a thread.
        """
        until = asyncio.get_running_loop().time() + seconds
        if on_loop:
            try:
                result = call()
            except Exception as refused:  # user code may raise anything
                raise Raised(refused) from None
        else:
            result = await self._outcome(self._in_thread, call, until)
        if inspect.isawaitable(result):
            result = await self._outcome(self._on_loop, result, until)
        return result

    async def _outcome(self, begin: Callable[[Any], asyncio.Future[Outcome]], work: Any, until: float) -> Any:
        if self.at_work >= self.most:
            if inspect.iscoroutine(work):
                work.close()
            raise Crowded
        self.at_work += 1
        try:
            future = begin(work)
        except Exception as refused:
            self.at_work -= 1
            if inspect.iscoroutine(work):
                work.close()
            raise Unstarted(shortage.explain(refused)) from refused
        try:
            await asyncio.wait((future,), timeout=max(0.0, until - asyncio.get_running_loop().time()))
            if not future.done():
                raise Late
        finally:
            future.cancel()
        result, error = future.result()
        if error is not None:
            raise Raised(error)
        return result

    def _on_loop(self, work: Awaitable[Any]) -> asyncio.Future[Outcome]:
        task = asyncio.get_running_loop().create_task(awaited(work))
        task.add_done_callback(self._ended)
        return task

    def _in_thread(self, call: Callable[[], Any]) -> asyncio.Future[Outcome]:
        """Run *call* in a thread, which counts as running until it returns, even if the future is cancelled."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Outcome] = loop.create_future()

        def settle(outcome: Outcome) -> None:
            self._ended()
            if not future.done():
                future.set_result(outcome)

        def work() -> None:
            try:
                outcome: Outcome = (call(), None)
            except BaseException as error:  # SystemExit too: user code must not end the master
                outcome = (None, error)
            try:
                loop.call_soon_threadsafe(settle, outcome)
            except RuntimeError:
                return  # the master has exited meanwhile

        threading.Thread(target=work, name="cservice handler", daemon=True).start()
        return future

    def _ended(self, _task: object = None) -> None:
        self.at_work -= 1


async def awaited(result: Awaitable[Any]) -> Outcome:
    """Return the outcome of *result*. It never raises SystemExit, which would end the event loop if it left a task."""
    try:
        return await result, None
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        return None, error
    except BaseException as error:  # SystemExit too: user code must not end the master
        return None, error


HANDLERS = Handlers()
"""The handlers of commands."""
