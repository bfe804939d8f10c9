"""The last resort: a worker's process ends in time, whatever its program does on its way out.

It has the time that was announced for its ``finally`` blocks, its ``atexit`` functions and the jobs of its pools. Two
things are not waited for that long, once the program has come to its end and only waits for threads:

- ordinary threads, which do not end by themselves (``while True: refresh(); sleep(5)``): ``THREAD_SECONDS``. Alone,
  the same program would have ended at once by SIGTERM. ``on_worker_stop`` has the whole time, and may join them.
- the threads of a pool, one of which serves a client that has been sent away (``hurry``): ``HURRY``. Such a thread may
  wait for its next event for ever, and cannot be cancelled.
"""

from __future__ import annotations

import sys
import threading
from typing import Callable, List, NoReturn, Optional

from .unpatched import allocate_lock, os, time

HURRY = 3.0
"""Seconds in which threads of a pool may still end."""
THREAD_SECONDS = 3.0
"""Seconds in which ordinary threads may still end."""
CALLBACK = "on_worker_stop"
"""The name of the thread that runs the program's own cleanup."""
_LOOK_SECONDS = 0.1
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
    start = time.monotonic()
    end = start + remaining() + _MARGIN
    never = allocate_lock()
    never.acquire()
    since: Optional[float] = None
    why = "the time to stop is over"
    while time.monotonic() < end:
        never.acquire(timeout=min(_LOOK_SECONDS, max(0.0, end - time.monotonic())))
        now = time.monotonic()
        names = _threads()
        if not names or not _is_at_end():
            since = None
            continue
        since = now if since is None else since
        if hurry and now >= start + HURRY and all(name.startswith(_POOLS) for name in names):
            why = "only threads without a client are left"
            break
        if now >= since + THREAD_SECONDS and not any(name.startswith((*_POOLS, CALLBACK)) for name in names):
            why = (
                f"waited {THREAD_SECONDS:g} s for threads that do not end; make them daemon threads, "
                "or join them in on_worker_stop"
            )
            break
    names = _threads()
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
    os._exit(0)  # noqa: SLF001 - documented


def _threads() -> List[str]:
    """The names of the threads that the interpreter's end waits for."""
    return [
        thread.name for thread in threading.enumerate() if not thread.daemon and thread is not threading.main_thread()
    ]


def _is_at_end() -> bool:
    """Return whether the main thread has come to the program's end and waits for other threads."""
    return _is_waiting(sys._current_frames().get(threading.main_thread().ident or 0))  # noqa: SLF001 - documented


def _is_waiting(frame: Optional[object]) -> bool:
    while frame is not None:
        code = frame.f_code  # type: ignore[attr-defined]
        if (os.path.basename(code.co_filename), code.co_name) in _WAITS:
            return True
        frame = frame.f_back  # type: ignore[attr-defined]
    return False
