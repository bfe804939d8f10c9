"""Forced exit: the process of a worker ends in time, whatever its program does while it exits.

The program has the announced time for its ``finally`` blocks, its ``atexit`` functions and the jobs of its pools. Once
it has reached its end and only waits for threads, two kinds of threads get less time:

- Ordinary threads that do not end by themselves (``while True: refresh(); sleep(5)``): ``THREAD_SECONDS``. Without a
  service, SIGTERM would have ended the program immediately. ``on_worker_stop`` has the full time, and may join them.
- Threads of a pool, if one of them serves a client that was disconnected (``hurry``): ``POOL_SECONDS``. Such a thread
  may wait for its next event forever, and cannot be cancelled.
"""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING, Callable, List, NoReturn, Optional

from .stop_callback import THREAD_NAME
from .unpatched import allocate_lock, os, time

if TYPE_CHECKING:
    from types import FrameType

POOL_SECONDS = 3.0
"""Seconds that threads of a pool get to end."""
THREAD_SECONDS = 3.0
"""Seconds that ordinary threads get to end."""
_LOOK_SECONDS = 0.1
_MARGIN = 1.0
"""Seconds added to the time to stop."""

_POOLS = ("AnyIO worker thread", "WSGI", "asyncio_", "ThreadPoolExecutor")
"""Prefixes of the names of pool threads: starlette's, a2wsgi's, asyncio's, concurrent.futures'."""
_WAITS = {
    ("threading.py", "_shutdown"),
    ("thread.py", "_python_exit"),
    ("runners.py", "_cancel_all_tasks"),
    ("runners.py", "close"),
}
"""Functions in which the main thread waits for other threads after the end of the program."""


def end_in_time(remaining: Callable[[], float], *, hurry: bool, say: Callable[[str], None]) -> None:
    """Exit the process with code 0 when its time is over. *hurry*: a thread may serve a client that has gone.

    *remaining* returns the seconds left. Run it in its own thread, which ends with the process.
    """
    start = time.monotonic()
    end = start + remaining() + _MARGIN
    never = allocate_lock()
    never.acquire()
    since: Optional[float] = None
    why = "stop timeout expired"
    while time.monotonic() < end:
        never.acquire(timeout=min(_LOOK_SECONDS, max(0.0, end - time.monotonic())))
        now = time.monotonic()
        names = _threads()
        if not names or not _is_at_end():
            since = None
            continue
        since = now if since is None else since
        if hurry and now >= start + POOL_SECONDS and all(name.startswith(_POOLS) for name in names):
            why = "only threads whose clients have disconnected are left"
            break
        if now >= since + THREAD_SECONDS and not any(name.startswith((*_POOLS, THREAD_NAME)) for name in names):
            why = (
                f"waited {THREAD_SECONDS:g} s for threads that do not end (make them daemon threads, "
                "or join them in on_worker_stop)"
            )
            break
    names = _threads()
    say(f"{why}; forced to exit{' while these threads were running: ' + ', '.join(names) if names else ''}")
    end_now()


def end_now() -> NoReturn:
    """Flush the output and exit the process with code 0."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError, RuntimeError):
            pass  # no reader, closed, or called during a write
    os._exit(0)  # noqa: SLF001 - documented


def _threads() -> List[str]:
    """Return the names of the threads for which interpreter shutdown waits."""
    return [
        thread.name for thread in threading.enumerate() if not thread.daemon and thread is not threading.main_thread()
    ]


def _is_at_end() -> bool:
    """Return True if the main thread has reached the end of the program and waits for other threads."""
    return _is_waiting(sys._current_frames().get(threading.main_thread().ident or 0))  # noqa: SLF001 - documented


def _is_waiting(frame: Optional[object]) -> bool:
    while frame is not None:
        code = frame.f_code  # type: ignore[attr-defined]
        if (os.path.basename(code.co_filename), code.co_name) in _WAITS:
            return True
        frame = frame.f_back  # type: ignore[attr-defined]
    return False


def is_importing(frame: Optional[FrameType]) -> bool:
    """Return True if *frame* is part of an import.

    An exception raised there may be swallowed (by a bare ``except`` around an optional dependency, or callbacks of the
    import system) or changed (by import locks), and modules imported there may be partially imported.
    """
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib."):
            return True
        frame = frame.f_back
    return False
