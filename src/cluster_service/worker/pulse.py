"""The worker's board: its heartbeat, and counts of its answers.

- Writing needs no system call; an answer costs less than a microsecond.
- A fork of the worker is not a worker, and writes to its own memory instead.
- One loop sends the heartbeat: the first that runs, but preferably that of the main thread. While no loop runs, the
  interpreter sends it (``interpreter_turns``): a program without a loop does not hang unless it holds the GIL.
- The heartbeat stops while a thread pool that answers requests is stuck (``pools``), in which case the worker also
  pauses accepting (``accepting``), and after the program has executed another one in its process.
"""

from __future__ import annotations

import functools
import mmap
from array import array
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Optional, Tuple

from cluster_service.wire import board
from cluster_service.wire.board import BEAT, ERRORS, REQUESTS, STACKS

from . import stacks
from .accepting import Accepting
from .pools import AnyioPool
from .threads import run_beside
from .unpatched import allocate_lock, get_ident, os, time

if TYPE_CHECKING:
    from .streams import Streams

PACE = 0.25
"""Seconds between two heartbeats of an idle loop."""
SOON = 0.02
"""The same while accepting is paused, to resume soon after a thread becomes free."""


class Pulse:
    """The cells of the board. *descriptor*: from the guardian; None: nothing is reported."""

    def __init__(self, descriptor: Optional[int]) -> None:
        self.descriptor = -1
        self._cells: Any = array("Q", [0] * board.CELLS)
        self._main = get_ident()
        self._loop: Optional[Tuple[object, bool]] = None
        """The loop that sends the heartbeat, and True if it runs in the main thread."""
        self._pools: List[Callable[[], bool]] = []
        self.accepting = Accepting()
        if descriptor is not None:
            try:
                self._open(descriptor)
            except (ValueError, OSError):
                pass  # the worker runs without a board
        os.register_at_fork(after_in_child=self._be_fork)
        os.execv, os.execve = self._leaving(os.execv), self._leaving(os.execve)

    def _open(self, descriptor: int) -> None:
        self._cells = board.cells_of(mmap.mmap(descriptor, board.PAGE))
        self.descriptor = descriptor
        stacks.prepare(self)

    def leave(self) -> None:
        """Stop writing to the board: another process does, or none."""
        self._cells = array("Q", [0] * board.CELLS)
        self._main = get_ident()
        self._loop = None

    def _be_fork(self) -> None:
        self.leave()
        self.accepting.forget()

    def _leaving(self, execute: Callable[..., Any]) -> Any:
        """Wrap *execute*, which replaces the program: the new one sends no heartbeat and writes no stacks."""

        @functools.wraps(execute)
        def leave_and_execute(*args: Any) -> Any:
            cells, loop = self._cells, self._loop
            said = cells[STACKS]
            self.accepting.look(stuck=False)  # the new program may use the listening sockets
            self.leave()
            cells[BEAT] = cells[STACKS] = 0
            try:
                return execute(*args)
            finally:  # reached only if execution failed
                cells[STACKS] = said
                self._cells, self._loop = cells, loop

        return leave_and_execute

    def writes_stacks(self, pid: int) -> None:
        """Record that the process *pid* writes its stacks to the board on the dump signal."""
        self._cells[STACKS] = pid

    def needs(self, stuck: Callable[[], bool]) -> None:
        """Suspend the heartbeat while *stuck* returns True; it is called in the thread that sends the heartbeat."""
        self._pools.append(stuck)

    def interpreter_turns(self) -> None:
        """Send the heartbeat if no loop does."""
        if self._loop is None and not self._stuck():
            self._cells[BEAT] = time.monotonic_ns()

    def _stuck(self) -> bool:
        stuck = sum(stuck() for stuck in self._pools) > 0  # call each of them
        self.accepting.look(stuck=stuck)
        return stuck

    @property
    def pace(self) -> float:
        """Seconds until the next heartbeat."""
        return PACE if self.accepting.wanted else SOON

    def watch(self) -> None:
        """Start a thread that pauses accepting while the loop hangs, for a server that accepts outside of the loop."""
        run_beside(self._watch)

    def _watch(self) -> None:
        never = allocate_lock()
        never.acquire()
        while not never.acquire(timeout=self.pace):
            beat = self._cells[BEAT]
            self.accepting.look(stuck=beat > 0 and time.monotonic_ns() - beat > 2 * PACE * 1e9)

    def take_over(self) -> None:
        """Write to the board from now on, in a fork that does the work of the worker."""
        if self.descriptor >= 0:
            self._open(self.descriptor)

    def beat(self, loop: object) -> None:
        """Record an iteration of *loop*. Call it in the thread of the loop."""
        known = self._loop
        if known is None or (known[0] is not loop and not known[1] and get_ident() == self._main):
            self._loop = known = (loop, get_ident() == self._main)
        if known[0] is loop and not self._stuck():
            self._cells[BEAT] = time.monotonic_ns()

    def ended(self, loop: object) -> None:
        """Stop expecting a heartbeat of *loop*."""
        if self._loop is not None and self._loop[0] is loop:
            self._cells[BEAT] = 0
            self._loop = None

    def answered(self, status: int) -> None:
        """Count an answer with *status*. Concurrent threads may lose a count, which only serves for ratios."""
        cells = self._cells
        cells[REQUESTS] += 1
        if status >= 500:
            cells[ERRORS] += 1


class Beating:
    """The heartbeat of *loop*, an asyncio loop, from its next iteration on."""

    def __init__(self, pulse: Pulse, loop: Any) -> None:
        self._pulse = pulse
        self._loop = loop
        self._handle = loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._pulse.beat(self._loop)
        self._handle = self._loop.call_later(self._pulse.pace, self._turn)

    def end(self) -> None:
        """Stop the heartbeat: the loop has ended or is about to."""
        self._handle.cancel()
        self._pulse.ended(self._loop)


def counting_asgi(app: Callable[..., Any], pulse: Pulse, streams: Streams) -> Callable[..., Any]:
    """Return the ASGI 3 app *app*, wrapped to count its answers and track its *streams*.

    An app that is already wrapped is returned unchanged.
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
                pulse.answered(500)  # the answer that the server will send
            raise
        if not begun and getattr(getattr(send, "__self__", None), "disconnected", True) is False:
            pulse.answered(500)  # uvicorn's answer if an app sends none while the client is connected

    counted.cservice_counts = True  # type: ignore[attr-defined]
    return counted


def counting_wsgi(app: Callable[..., Any], pulse: Pulse) -> Callable[..., Any]:
    """Return the WSGI app *app*, wrapped to count its answers."""

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
