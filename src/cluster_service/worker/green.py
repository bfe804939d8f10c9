"""The sockets of gevent and eventlet in ``--share python``: each has a class of its own, with the C class's bind.

And the handlers of SIGTERM that gevent's loop runs (``gate``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .ports import share_class

if TYPE_CHECKING:
    from types import ModuleType

    from .runtime import Runtime

CLASSES = {"gevent._socket3": "_wrefsocket", "eventlet.greenio.base": "_original_socket"}
"""Module -> the class of the sockets below its green ones."""


def install(module: ModuleType, runtime: Runtime) -> None:
    """Have the sockets of *module* share their addresses, in this mode; or hold back its handlers of SIGTERM."""
    if module.__name__ == "gevent.hub":
        runtime.gate.hold_watchers(module.signal)
    elif runtime.share == "python":
        share_class(getattr(module, CLASSES[module.__name__]))
