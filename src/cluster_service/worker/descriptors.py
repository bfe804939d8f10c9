"""Descriptors of the runtime, in a process whose program may close them at any time.

A program that becomes a daemon closes every descriptor above 2, and the next files that it opens get the same numbers.
So before the runtime writes, reads or closes a descriptor, it checks that the number still refers to its file, by the
inode, which no other open file can have while ours is open anywhere.
"""

from __future__ import annotations

import errno
from typing import Optional, Tuple

from .unpatched import os


class Owned:
    """A descriptor that the runtime opened or received."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._identity = _identity(fd)

    def __repr__(self) -> str:
        return f"<Owned {self.fd}: {'ours' if self.is_ours() else 'closed by the program'}>"

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


def pipe() -> Tuple[Owned, Owned]:
    """Return the ends of a new non-blocking pipe, the read end first."""
    ends = os.pipe()
    for fd in ends:
        os.set_blocking(fd, False)
    return Owned(ends[0]), Owned(ends[1])


def _identity(fd: int) -> Optional[Tuple[int, int]]:
    try:
        status = os.fstat(fd)
    except OSError:
        return None
    return status.st_dev, status.st_ino
