"""Functions of the interpreter that work whatever the program has replaced, shadowed or half imported.

gevent and eventlet replace functions of ``os``, ``select``, ``time`` and ``_thread`` (monkey patching). The
replacements switch to another green thread, so threads and signal handlers of the runtime must not call them. This
module is imported before the program, and modules of the runtime, even those imported later, take the originals from
here. Sockets are taken from ``_socket``, which both leave unchanged.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any, Callable, Dict, Iterable

if TYPE_CHECKING:
    import os
    import select
    import time
    from _thread import allocate_lock, get_ident, get_native_id, start_new_thread
else:
    import _thread
    import os as _os
    import select as _select
    import time as _time
    from types import SimpleNamespace

    os, select, time = (SimpleNamespace(**vars(module)) for module in (_os, _select, _time))
    allocate_lock, get_ident = _thread.allocate_lock, _thread.get_ident
    get_native_id, start_new_thread = _thread.get_native_id, _thread.start_new_thread

__all__ = [
    "Bell", "allocate_lock", "get_ident", "get_native_id", "keep_library", "library", "os", "running_loop",
    "select", "start_new_thread", "start_thread", "time",
]  # fmt: skip


class Bell:
    """Wakes the one thread that waits for it, or the next one that does."""

    def __init__(self) -> None:
        self._lock = allocate_lock()
        self._lock.acquire()

    def ring(self) -> None:
        """Wake the thread. Rings before the next wait count once."""
        try:
            self._lock.release()
        except RuntimeError:
            pass  # it was already rung

    def wait(self, seconds: float) -> bool:
        """Wait for a ring; return False after *seconds*."""
        return self._lock.acquire(timeout=max(0.0, seconds))


_kept: Dict[str, Any] = {}
"""Modules of the standard library that a script shadows, or might."""


def keep_library(names: Iterable[str]) -> None:
    """Import modules of the standard library now, for ``library``: the script may shadow them."""
    _kept.update({name: importlib.import_module(name) for name in names})


def library(name: str) -> Any:
    """Return the module *name* of the standard library, even if the script shadows it."""
    return _kept.get(name) or importlib.import_module(name)


def start_thread(function: Callable[..., None], *args: Any) -> bool:
    """Run *function* in a thread. Return False if the interpreter is shutting down and starts no threads.

    The thread is unknown to ``threading``: a program that lists, counts or patches its threads sees only its own, and
    the interpreter does not wait for this one at shutdown.

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


def running_loop() -> Any:
    """Return the asyncio loop running in this thread, or None. asyncio may be partially imported."""
    running = getattr(sys.modules.get("asyncio"), "_get_running_loop", None)  # documented for C extensions
    return running() if running is not None else None
