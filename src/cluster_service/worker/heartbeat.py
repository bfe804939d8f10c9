"""The worker's board: its heartbeat, counts of its answers, and the stacks of its threads.

- Writing needs no system call; an answer costs less than a microsecond.
- A fork of the worker is not a worker, and writes to its own memory instead.
- One loop sends the heartbeat: the first that runs, but preferably that of the main thread. While no loop runs, the
  interpreter sends it (``beat_without_loop``): a program without a loop does not hang unless it holds the GIL.
- The heartbeat stops while a thread pool that answers requests is stuck, in which case the worker also pauses accepting
  (``accept_pause``), and after the program has executed another one in its process. *Stuck* means that every thread has
  been busy with the same request since the last check, so that new requests wait.
- On a signal, faulthandler writes the stacks of all threads to the board, to show what the worker was doing when it
  hung. It does so in its signal handler, in C, which needs neither a running loop nor the GIL, at the file position of
  the descriptor, which nothing else uses.
"""

from __future__ import annotations

import functools
import mmap
import os as program_os  # the one that the program sees
import sys
from array import array
from typing import TYPE_CHECKING, Any, Callable, List, Optional, Set, Tuple

from cluster_service.wire import worker_protocol as board
from cluster_service.wire.worker_protocol import BEAT, ERRORS, REQUESTS, STACKS, STACKS_AT, dump_signal, main_signal

from .accept_pause import AcceptPause
from .unpatched import allocate_lock, get_ident, os, start_thread, time

if TYPE_CHECKING:
    from types import ModuleType
    from typing import Protocol

    class HasHeartbeat(Protocol):
        """The runtime, as this module uses it."""

        heartbeat: Heartbeat


BEAT_SECONDS = 0.25
"""Seconds between two heartbeats of an idle loop."""
PAUSED_BEAT_SECONDS = 0.02
"""The same while accepting is paused, to resume soon after a thread becomes free."""


class Heartbeat:
    """The cells of the board. *descriptor*: from the guardian; None: nothing is reported."""

    def __init__(self, descriptor: Optional[int]) -> None:
        self.descriptor = -1
        self._cells: Any = array("Q", [0] * board.CELLS)
        self._main = get_ident()
        self._loop: Optional[Tuple[object, bool]] = None
        """The loop that sends the heartbeat, and True if it runs in the main thread."""
        self._pools: List[Callable[[], bool]] = []
        self.accepting = AcceptPause()
        if descriptor is not None:
            try:
                self._open(descriptor)
            except (ValueError, OSError):
                pass  # the worker runs without a board
        os.register_at_fork(after_in_child=self._after_fork)
        program_os.execv = self._wrap_exec(program_os.execv)
        program_os.execve = self._wrap_exec(program_os.execve)

    def _open(self, descriptor: int) -> None:
        self._cells = board.cells_of(mmap.mmap(descriptor, board.PAGE))
        self.descriptor = descriptor
        _prepare_stack_dumps(self)

    def stop_writing(self) -> None:
        """Stop writing to the board: another process does, or none."""
        self._cells = array("Q", [0] * board.CELLS)
        self._main = get_ident()
        self._loop = None

    def _after_fork(self) -> None:
        self.stop_writing()
        self.accepting.reset()

    def _wrap_exec(self, execute: Callable[..., Any]) -> Any:
        """Wrap *execute*, which replaces the program: the new one sends no heartbeat and writes no stacks."""

        @functools.wraps(execute)
        def stop_writing_and_execute(*args: Any, **kwargs: Any) -> Any:
            cells, loop = self._cells, self._loop
            said = cells[STACKS]
            self.accepting.update(stuck=False)  # the new program may use the listening sockets
            self.stop_writing()
            cells[BEAT] = cells[STACKS] = 0
            try:
                return execute(*args, **kwargs)
            finally:  # reached only if execution failed
                cells[STACKS] = said
                self._cells, self._loop = cells, loop

        return stop_writing_and_execute

    def record_stack_dumps(self, pid: int) -> None:
        """Record that the process *pid* writes its stacks to the board on the dump signal."""
        self._cells[STACKS] = pid

    def add_pool(self, stuck: Callable[[], bool]) -> None:
        """Suspend the heartbeat while *stuck* returns True; it is called in the thread that sends the heartbeat."""
        self._pools.append(stuck)

    def beat_without_loop(self) -> None:
        """Send the heartbeat if no loop does."""
        if self._loop is None and not self._stuck():
            self._cells[BEAT] = time.monotonic_ns()

    def _stuck(self) -> bool:
        stuck = sum(stuck() for stuck in self._pools) > 0  # call each of them
        self.accepting.update(stuck=stuck)
        return stuck

    @property
    def interval(self) -> float:
        """Seconds until the next heartbeat."""
        return BEAT_SECONDS if self.accepting.accepts else PAUSED_BEAT_SECONDS

    def watch_loop(self) -> None:
        """Start a thread that pauses accepting while the loop hangs, for a server that accepts outside of the loop."""
        start_thread(self._watch)

    def _watch(self) -> None:
        never = allocate_lock()
        never.acquire()
        while not never.acquire(timeout=self.interval):
            beat = self._cells[BEAT]
            self.accepting.update(stuck=beat > 0 and time.monotonic_ns() - beat > 2 * BEAT_SECONDS * 1e9)

    def start_writing(self) -> None:
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

    def loop_ended(self, loop: object) -> None:
        """Stop expecting a heartbeat of *loop*."""
        if self._loop is not None and self._loop[0] is loop:
            self._cells[BEAT] = 0
            self._loop = None

    def count_answer(self, status: int) -> None:
        """Count an answer with *status*. Concurrent threads may lose a count, which only serves for ratios."""
        cells = self._cells
        cells[REQUESTS] += 1
        if status >= 500:
            cells[ERRORS] += 1


class LoopHeartbeat:
    """The heartbeat of *loop*, an asyncio loop, from its next iteration on."""

    def __init__(self, heartbeat: Heartbeat, loop: Any) -> None:
        self._heartbeat = heartbeat
        self._loop = loop
        self._handle = loop.call_soon(self._beat)

    def _beat(self) -> None:
        self._heartbeat.beat(self._loop)
        self._handle = self._loop.call_later(self._heartbeat.interval, self._beat)

    def end(self) -> None:
        """Stop the heartbeat: the loop has ended or is about to."""
        self._handle.cancel()
        self._heartbeat.loop_ended(self._loop)


class Pool:
    """The *size* threads of a server, each of which calls the wrapped app."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._busy: Set[int] = set()
        self._done = 0
        self._seen = -1

    def wrap(self, app: Callable[..., Any]) -> Callable[..., Any]:
        """Return *app* wrapped to track the threads in it."""

        def known(*args: Any) -> Any:
            me = get_ident()
            self._busy.add(me)
            try:
                return app(*args)
            finally:
                self._busy.discard(me)
                self._done += 1  # concurrent updates may lose counts; it only matters that it changes

        return known

    def is_stuck(self) -> bool:
        """Return True if every thread is busy and none has finished since the last check."""
        done = self._done
        moved, self._seen = done != self._seen, done
        return not moved and len(self._busy) >= self.size


class AnyioPool:
    """anyio's default pool, in which starlette and FastAPI run endpoints that are not coroutines."""

    def __init__(self) -> None:
        self._limiter: Any = None
        self._seen: List[int] = []

    def find(self) -> None:
        """Find the pool of the running loop. Call it in a coroutine of the app."""
        if self._limiter is None and "anyio.to_thread" in sys.modules:
            try:
                self._limiter = sys.modules["anyio.to_thread"].current_default_thread_limiter()
            except Exception:  # noqa: BLE001 - not asyncio, or an unknown version: there is no information
                self._limiter = False

    def is_stuck(self) -> bool:
        """Return True if the pool is stuck; see ``Pool.stuck``."""
        limiter = self._limiter
        if not limiter or limiter.borrowed_tokens < limiter.total_tokens:
            self._seen = []
            return False
        before, self._seen = self._seen, sorted(map(id, limiter.statistics().borrowers))
        return before == self._seen


def _prepare_stack_dumps(heartbeat: Heartbeat) -> None:
    """Register the stack dumps of this process; without support for them, do nothing."""
    try:
        import faulthandler  # part of CPython, but not of all implementations

        descriptor = heartbeat.descriptor
        if os.lseek(descriptor, 0, os.SEEK_CUR) < STACKS_AT:  # otherwise an earlier process has written a dump
            os.lseek(descriptor, STACKS_AT, os.SEEK_SET)
        faulthandler.register(dump_signal(), file=descriptor, all_threads=True, chain=False)
        faulthandler.register(main_signal(), file=descriptor, all_threads=False, chain=False)
    except (ImportError, AttributeError, OSError, RuntimeError, ValueError):
        return
    heartbeat.record_stack_dumps(os.getpid())


def send_from_loops(module: ModuleType, runtime: HasHeartbeat) -> None:
    """Make the loops of ``asyncio.base_events`` or ``uvloop`` send the heartbeat while they run in the main thread."""
    loop_class: Any = module.Loop if module.__name__ == "uvloop" else module.BaseEventLoop
    main = get_ident()
    original = loop_class.run_forever

    @functools.wraps(original)
    def run_forever(self: Any) -> Any:
        if get_ident() != main or self.is_closed() or self.is_running():
            return original(self)
        beating = LoopHeartbeat(runtime.heartbeat, self)
        try:
            return original(self)
        finally:
            beating.end()

    loop_class.run_forever = run_forever
