"""gevent and eventlet with ``--share python``: each has its own socket class, with the bind method of the C class.

Also wraps the SIGTERM handlers that run in gevent's loop (``gate``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .ports import share_class

if TYPE_CHECKING:
    from types import ModuleType

    from .runtime import Runtime

CLASSES = {"gevent._socket3": "_wrefsocket", "eventlet.greenio.base": "_original_socket"}
"""Module -> the class of the sockets underneath its green ones."""


def install(module: ModuleType, runtime: Runtime) -> None:
    """Make the sockets of *module* share their addresses, in this mode; or wrap its SIGTERM handlers."""
    if module.__name__ == "gevent.hub":
        runtime.gate.hold_watchers(module.signal)
    elif runtime.share == "python":
        share_class(getattr(module, CLASSES[module.__name__]))
