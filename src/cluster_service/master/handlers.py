"""Running a user's code in the master so that it can harm nothing there: not by raising, blocking, or never ending.

A function runs in a thread of its own, an ``async def`` on the master's loop. Both have a time; a function that has not
ended by then is left to itself, and so that they do not pile up there may be no more than ``MOST`` at a time. The
threads are daemons: a master ends without waiting for them. (What blocks in an ``async def`` blocks the master; the
guardian replaces a master that does not answer.)
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
"""What was returned, and what was raised."""

MOST = 128
"""Handlers of commands at work at the same time, those that were left to themselves among them."""


class Late(Exception):
    """It has not ended in its time."""


class Crowded(Exception):
    """Too many are at work already."""


class Unstarted(Exception):
    """It has not been started: there is no thread or no memory for it."""


class Raised(Exception):
    """It has raised ``error``."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(str(error))
        self.error = error

    def story(self) -> str:
        """The traceback, without our own frames above the user's."""
        trace = self.error.__traceback__
        while trace is not None and trace.tb_next is not None and _is_ours(trace.tb_frame.f_code.co_filename):
            trace = trace.tb_next
        return "".join(traceback.format_exception(type(self.error), self.error, trace)).rstrip()


def _is_ours(filename: str) -> bool:
    return filename == __file__ or filename.endswith(("master/extensions.py", "master/signature.py", "master/hooks.py"))


class Handlers:
    """Those at work."""

    def __init__(self, most: int = MOST) -> None:
        self.most = most
        self.at_work = 0

    async def run(self, call: Callable[[], Any], seconds: float, *, on_loop: bool) -> Any:
        """Return what ``call()`` returns or what the awaitable it returns comes to. Raises Late, Crowded, Unstarted and
        Raised.

        *on_loop*: call it on the loop, rather than in a thread.
        """
        until = asyncio.get_running_loop().time() + seconds
        if on_loop:
            try:
                result = call()
            except Exception as refused:  # noqa: BLE001 - whatever a user's code raises
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
        """A thread cannot be ended: it counts until it ends by itself, whatever becomes of the future."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Outcome] = loop.create_future()

        def settle(outcome: Outcome) -> None:
            self._ended()
            if not future.done():
                future.set_result(outcome)

        def work() -> None:
            try:
                outcome: Outcome = (call(), None)
            except BaseException as error:  # noqa: BLE001 - SystemExit too: it is not the user's to end the master
                outcome = (None, error)
            try:
                loop.call_soon_threadsafe(settle, outcome)
            except RuntimeError:
                return  # the master has ended meanwhile

        threading.Thread(target=work, name="cservice handler", daemon=True).start()
        return future

    def _ended(self, _task: object = None) -> None:
        self.at_work -= 1


async def awaited(result: Awaitable[Any]) -> Outcome:
    """Return what *result* comes to, or what it raised: a SystemExit that left a task would end the loop."""
    try:
        return await result, None
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        return None, error
    except BaseException as error:  # noqa: BLE001 - SystemExit too: it is not the user's to end the master
        return None, error


HANDLERS = Handlers()
"""Of the commands."""
