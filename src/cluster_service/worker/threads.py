"""Threads unknown to ``threading``: a program that lists, counts or patches its threads sees only its own.

The interpreter does not wait for them at shutdown.
"""

from __future__ import annotations

from typing import Any, Callable

from .unpatched import allocate_lock, start_new_thread


def run_beside(function: Callable[..., None], *args: Any) -> bool:
    """Run *function* in a thread. Return False if the interpreter is shutting down and starts no threads.

    The thread has started when this returns: one that starts after interpreter shutdown crashes old Pythons.
    """
    begun = allocate_lock()
    begun.acquire()

    def run() -> None:
        begun.release()
        function(*args)

    try:
        start_new_thread(run, ())
    except RuntimeError:
        return False
    begun.acquire()
    return True
