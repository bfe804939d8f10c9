"""Functions of the interpreter, saved before the program starts.

gevent and eventlet replace functions of ``os``, ``select``, ``time`` and ``_thread`` (monkey patching). The
replacements switch to another green thread, so threads and signal handlers of the runtime must not call them. This
module is imported before the program, and modules of the runtime, even those imported later, take the originals from
here. Sockets are taken from ``_socket``, which both leave unchanged.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

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

__all__ = ["Bell", "allocate_lock", "get_ident", "get_native_id", "os", "select", "start_new_thread", "time"]


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
