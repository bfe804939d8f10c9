"""The last resort: a worker's process ends in time, whatever its program does on its way out.

It has the time that was announced, for its ``finally`` blocks, its ``atexit`` functions, its threads. Only where it
waits for nothing but the threads of a pool, and one of those serves a client that has been sent away (``hurry``), is it
not waited for any longer: such a thread may wait for its next event for ever, and cannot be cancelled.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from _thread import allocate_lock
from typing import Callable, List, NoReturn, Optional

HURRY = 3.0
"""Seconds in which threads of a pool may still end."""
_MARGIN = 1.0
"""Seconds beyond the time to stop."""

_POOLS = ("AnyIO worker thread", "WSGI", "asyncio_", "ThreadPoolExecutor")
"""How the names of threads begin that do what others ask of them: starlette's, a2wsgi's, asyncio's."""
_WAITS = {
    ("threading.py", "_shutdown"),
    ("thread.py", "_python_exit"),
    ("runners.py", "_cancel_all_tasks"),
    ("runners.py", "close"),
}
"""Where the main thread waits for other threads, once the program has come to its end."""


def end_in_time(remaining: Callable[[], float], *, hurry: bool, say: Callable[[str], None]) -> None:
    """End the process with 0 when its time is over. *hurry*: a thread may be at work for a client that is gone.

    *remaining* gives the seconds left. To be run in a thread of its own; it is gone when the process has ended before.
    """
    end = time.monotonic() + remaining() + _MARGIN
    never = allocate_lock()
    never.acquire()
    if hurry:
        never.acquire(timeout=max(0.0, min(HURRY, end - time.monotonic())))
        while time.monotonic() < end and not _waits_for_a_pool():
            never.acquire(timeout=0.1)
    never.acquire(timeout=max(0.0, end - time.monotonic()) if not hurry else 0.0)
    names = _threads()
    why = "the time to stop is over" if time.monotonic() >= end else "only threads without a client are left"
    say(f"{why}; ended with {'threads still at work: ' + ', '.join(names) if names else 'force'}")
    end_now()


def end_now() -> NoReturn:
    """End the process with 0, and keep what it has printed."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError, RuntimeError):
            pass  # nobody reads it, it is closed, or this comes in the middle of a write to it
    os._exit(0)


def _threads() -> List[str]:
    """The names of the threads that the interpreter's end waits for."""
    return [
        thread.name for thread in threading.enumerate() if not thread.daemon and thread is not threading.main_thread()
    ]


def _waits_for_a_pool() -> bool:
    frame = sys._current_frames().get(threading.main_thread().ident or 0)  # noqa: SLF001 - documented
    return all(name.startswith(_POOLS) for name in _threads()) and _is_waiting(frame)


def _is_waiting(frame: Optional[object]) -> bool:
    while frame is not None:
        code = frame.f_code  # type: ignore[attr-defined]
        if (os.path.basename(code.co_filename), code.co_name) in _WAITS:
            return True
        frame = frame.f_back  # type: ignore[attr-defined]
    return False
