"""The worker's board: proof that its loop turns, and the count of its answers.

- Written without a system call; an answer costs less than a microsecond.
- A fork of the worker is not the worker, and writes into memory of its own instead.
- One loop gives the beat: the first that turns, but the main thread's rather than another's. While none does, the
  interpreter gives it (``interpreter_turns``): a program that goes on without a loop is not one that hangs, unless it
  holds the GIL.
- There is no beat while a pool of threads that answers requests is stuck (``pools``), and no connections are taken
  (``accepting``); nor after the worker's program has executed another in its own place.
"""

from __future__ import annotations

import functools
import mmap
import os
import time
from _thread import allocate_lock, get_ident
from array import array
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Optional, Tuple

from cluster_service.wire import board
from cluster_service.wire.board import BEAT, ERRORS, REQUESTS, STACKS

from . import stacks
from .accepting import Accepting
from .pools import AnyioPool
from .threads import run_beside

if TYPE_CHECKING:
    from .streams import Streams

PACE = 0.25
"""Seconds between two beats of a loop that has nothing else to do."""
SOON = 0.02
"""The same while no connections are taken: a thread that is free again is not to wait for its next one."""


class Pulse:
    """The cells of the board. *descriptor*: as the guardian gave it; None: it gave none, and nothing is reported."""

    def __init__(self, descriptor: Optional[int]) -> None:
        self.descriptor = -1
        self._cells: Any = array("Q", [0] * board.CELLS)
        self._main = get_ident()
        self._loop: Optional[Tuple[object, bool]] = None
        """The loop whose beat it is, and whether that is the main thread's."""
        self._pools: List[Callable[[], bool]] = []
        self.accepting = Accepting()
        if descriptor is not None:
            try:
                self._open(descriptor)
            except (ValueError, OSError):
                pass  # the worker does without
        os.register_at_fork(after_in_child=self._be_fork)
        os.execv, os.execve = self._leaving(os.execv), self._leaving(os.execve)

    def _open(self, descriptor: int) -> None:
        self._cells = board.cells_of(mmap.mmap(descriptor, board.PAGE))
        self.descriptor = descriptor
        stacks.prepare(self)

    def leave(self) -> None:
        """Write no more to the board: another process does, or none is to."""
        self._cells = array("Q", [0] * board.CELLS)
        self._main = get_ident()
        self._loop = None

    def _be_fork(self) -> None:
        self.leave()
        self.accepting.forget()

    def _leaving(self, execute: Callable[..., Any]) -> Any:
        """Return *execute*, which puts another program in this one's place: that gives no beat, and has no stacks."""

        @functools.wraps(execute)
        def leave_and_execute(*args: Any) -> Any:
            cells, loop = self._cells, self._loop
            said = cells[STACKS]
            self.accepting.look(stuck=False)  # what listens may be the other program's
            self.leave()
            cells[BEAT] = cells[STACKS] = 0
            try:
                return execute(*args)
            finally:  # it cannot be executed
                cells[STACKS] = said
                self._cells, self._loop = cells, loop

        return leave_and_execute

    def writes_stacks(self, pid: int) -> None:
        """The process *pid* writes its stacks to the board when it gets the signal for it."""
        self._cells[STACKS] = pid

    def needs(self, stuck: Callable[[], bool]) -> None:
        """There is no beat while *stuck*, which is asked in the thread that gives it."""
        self._pools.append(stuck)

    def interpreter_turns(self) -> None:
        """Give the beat where no loop does."""
        if self._loop is None and not self._stuck():
            self._cells[BEAT] = time.monotonic_ns()

    def _stuck(self) -> bool:
        stuck = sum(stuck() for stuck in self._pools) > 0  # each of them is to look
        self.accepting.look(stuck=stuck)
        return stuck

    @property
    def pace(self) -> float:
        """Seconds to the next beat."""
        return PACE if self.accepting.wanted else SOON

    def watch(self) -> None:
        """Have an eye on a loop that is not what takes the connections."""
        run_beside(self._watch)

    def _watch(self) -> None:
        never = allocate_lock()
        never.acquire()
        while not never.acquire(timeout=self.pace):
            beat = self._cells[BEAT]
            self.accepting.look(stuck=beat > 0 and time.monotonic_ns() - beat > 2 * PACE * 1e9)

    def take_over(self) -> None:
        """In a fork that does the worker's work: it writes to the board from now on."""
        if self.descriptor >= 0:
            self._open(self.descriptor)

    def beat(self, loop: object) -> None:
        """*loop* has turned. To be called in the thread that it runs in."""
        known = self._loop
        if known is None or (known[0] is not loop and not known[1] and get_ident() == self._main):
            self._loop = known = (loop, get_ident() == self._main)
        if known[0] is loop and not self._stuck():
            self._cells[BEAT] = time.monotonic_ns()

    def ended(self, loop: object) -> None:
        """*loop* turns no more, and is not expected to."""
        if self._loop is not None and self._loop[0] is loop:
            self._cells[BEAT] = 0
            self._loop = None

    def answered(self, status: int) -> None:
        """An answer with *status* has been begun. Of several threads one may be missed: it is a count for shares."""
        cells = self._cells
        cells[REQUESTS] += 1
        if status >= 500:
            cells[ERRORS] += 1


class Beating:
    """The beat of *loop*, one of asyncio's, from its next turn on."""

    def __init__(self, pulse: Pulse, loop: Any) -> None:
        self._pulse = pulse
        self._loop = loop
        self._handle = loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._pulse.beat(self._loop)
        self._handle = self._loop.call_later(self._pulse.pace, self._turn)

    def end(self) -> None:
        """The loop has ended, or is about to."""
        self._handle.cancel()
        self._pulse.ended(self._loop)


def counting_asgi(app: Callable[..., Any], pulse: Pulse, streams: Streams) -> Callable[..., Any]:
    """Return the ASGI app (version 3) *app* with its answers counted, and its *streams* known.

    What is counted already is returned as it is.
    """
    if getattr(app, "cservice_counts", False):
        return app
    pool = AnyioPool()
    pulse.needs(pool.stuck)

    async def counted(scope: Dict[str, Any], receive: Any, send: Any) -> None:
        pool.find()
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await streams.websocket(app, scope, receive, send)
            else:
                await app(scope, receive, send)
            return
        begun = False

        def noting(message: Dict[str, Any]) -> Any:
            nonlocal begun
            if not begun and message["type"] == "http.response.start":
                begun = True
                pulse.answered(message["status"])
            return send(message)

        try:
            await streams.http(app, scope, receive, noting)
        except Exception:
            if not begun:
                pulse.answered(500)  # which the server will say
            raise
        if not begun and getattr(getattr(send, "__self__", None), "disconnected", True) is False:
            pulse.answered(500)  # uvicorn's answer for an app that gives none to a client that is still there

    counted.cservice_counts = True  # type: ignore[attr-defined]
    return counted


def counting_wsgi(app: Callable[..., Any], pulse: Pulse) -> Callable[..., Any]:
    """Return the WSGI app *app* with its answers counted."""

    def counted(environ: Dict[str, Any], start_response: Any) -> Any:
        begun = False

        def noting(status: str, headers: List[Tuple[str, str]], *exc_info: Any) -> Any:
            nonlocal begun
            if not begun:
                begun = True
                pulse.answered(int(status[:3]) if status[:3].isdigit() else 0)
            return start_response(status, headers, *exc_info)

        try:
            return app(environ, noting)
        except Exception:
            if not begun:
                pulse.answered(500)
            raise

    return counted
