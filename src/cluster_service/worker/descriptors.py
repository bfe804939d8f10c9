"""Descriptors of this process. Does not import ``socket``, which may be partially imported.

A program that becomes a daemon closes every descriptor above 2, and the next files that it opens get the same numbers.
So before the runtime writes, reads or closes one of its own descriptors (``OwnedDescriptor``), it checks that the
number still refers to its file, by the inode, which no other open file can have while ours is open anywhere.
"""

from __future__ import annotations

import errno
import stat
import sys
from typing import Any, List, Optional, Tuple

from .unpatched import os


class OwnedDescriptor:
    """A descriptor that the runtime opened or received."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._identity = _identity(fd)

    def __repr__(self) -> str:
        return f"<OwnedDescriptor {self.fd}: {'ours' if self.is_ours() else 'closed by the program'}>"

    def is_ours(self) -> bool:
        """Return True if the number still refers to this descriptor."""
        return self._identity is not None and _identity(self.fd) == self._identity

    def write(self, data: bytes) -> int:
        """Write *data*. Raises OSError; EBADF if the program has closed the descriptor."""
        self._check()
        return os.write(self.fd, data)

    def read(self, size: int) -> bytes:
        """Read at most *size* bytes. Raises OSError; EBADF if the program has closed the descriptor."""
        self._check()
        return os.read(self.fd, size)

    def close(self) -> None:
        """Close the descriptor, unless the program has closed it."""
        if self.is_ours():
            os.close(self.fd)
        self._identity = None

    def _check(self) -> None:
        if not self.is_ours():
            raise OSError(errno.EBADF, "the program has closed the runtime's descriptor")


def pipe() -> Tuple[OwnedDescriptor, OwnedDescriptor]:
    """Return the ends of a new non-blocking pipe, the read end first."""
    ends = os.pipe()
    for fd in ends:
        os.set_blocking(fd, False)
    return OwnedDescriptor(ends[0]), OwnedDescriptor(ends[1])


def _identity(fd: int) -> Optional[Tuple[int, int]]:
    try:
        status = os.fstat(fd)
    except OSError:
        return None
    return status.st_dev, status.st_ino


class borrowed_socket:  # noqa: N801 - reads as a function
    """Temporary socket object for a descriptor owned by other code; it is not closed."""

    def __init__(self, fd: int) -> None:
        import _socket as socket  # the C module, which monkey patching leaves alone

        # SOCK_NONBLOCK affects only the object; the program's default timeout would make the descriptor non-blocking.
        self._socket = socket.socket(type=socket.SOCK_STREAM | socket.SOCK_NONBLOCK, fileno=fd)

    def __enter__(self) -> Any:
        return self._socket

    def __exit__(self, *_: object) -> None:
        self._socket.detach()


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
        each = module.socket(type=module.SOCK_STREAM | module.SOCK_NONBLOCK, fileno=fd)  # see ``borrowed_socket``
    except OSError:
        return False  # closed meanwhile
    try:
        return bool(each.getsockopt(module.SOL_SOCKET, module.SO_ACCEPTCONN))
    except OSError:
        return False
    finally:
        each.detach()
