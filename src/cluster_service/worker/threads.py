"""Threads that ``threading`` does not know of: a program that lists, counts or patches its threads sees its own alone.

They are nobody's to wait for: the interpreter ends without them.
"""

from __future__ import annotations

from typing import Any, Callable

from .unpatched import allocate_lock, start_new_thread


def run_beside(function: Callable[..., None], *args: Any) -> bool:
    """Run *function* in a thread. False where the interpreter is about to end, and lets none start.

    It has begun when this returns: one that the system starts only after the interpreter's end crashes old Pythons.
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
