"""The interpreter's functions as they were before the program began.

gevent and eventlet replace functions of ``os``, ``select``, ``time`` and ``_thread`` by their own (monkey patching).
These switch to another green thread, so they must not be called in the runtime's threads and signal handlers. This
module is imported before the program, and the runtime's modules, which may be imported later, take the originals from
here. Sockets are taken from ``_socket``, which both leave alone.
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
    """Wakes the one thread that waits for it, or the next one that will."""

    def __init__(self) -> None:
        self._lock = allocate_lock()
        self._lock.acquire()

    def ring(self) -> None:
        """Wake the thread. Rung twice before anybody has waited, it is rung once."""
        try:
            self._lock.release()
        except RuntimeError:
            pass  # it has been rung

    def wait(self, seconds: float) -> bool:
        """Return as soon as it is rung; False after *seconds*."""
        return self._lock.acquire(timeout=max(0.0, seconds))
