"""The sockets of this process, by its descriptors. Does not import ``socket``, which may be partially imported."""

from __future__ import annotations

import stat
import sys
from typing import Any, List

from .unpatched import os


def sockets() -> List[int]:
    """Return the descriptors that are sockets."""
    found: List[int] = []
    for name in os.listdir("/proc/self/fd"):
        try:
            if stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                found.append(int(name))
        except OSError:
            pass  # the descriptor of the directory, or closed meanwhile
    return found


def is_listening() -> bool:
    """Return True if this process has a listening socket. Without ``_socket`` loaded, Python has none."""
    module = sys.modules.get("_socket")
    return hasattr(module, "SO_ACCEPTCONN") and any(_accepts(module, fd) for fd in sockets())


def _accepts(module: Any, fd: int) -> bool:
    try:
        each = module.socket(type=module.SOCK_STREAM | module.SOCK_NONBLOCK, fileno=fd)  # see ``aside.borrowed``
    except OSError:
        return False  # closed meanwhile
    try:
        return bool(each.getsockopt(module.SOL_SOCKET, module.SO_ACCEPTCONN))
    except OSError:
        return False
    finally:
        each.detach()
