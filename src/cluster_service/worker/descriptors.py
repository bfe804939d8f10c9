"""Descriptors of the runtime's own, in a process whose program may close them at any time.

A program that becomes a daemon closes every descriptor above 2, and the files that it opens next get the same numbers.
So the runtime writes to, reads from and closes a number only after it has checked that the number still is its own:
by the inode, which no other open file has as long as ours is open somewhere.
"""

from __future__ import annotations

import errno
from typing import Optional, Tuple

from .unpatched import os


class Owned:
    """A descriptor that the runtime has opened or was given."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._identity = _identity(fd)

    def __repr__(self) -> str:
        return f"<Owned {self.fd}: {'ours' if self.is_ours() else 'closed by the program'}>"

    def is_ours(self) -> bool:
        """Return whether the number still is this descriptor."""
        return self._identity is not None and _identity(self.fd) == self._identity

    def write(self, data: bytes) -> int:
        """Write *data*. Raises OSError, EBADF where the program has closed the descriptor."""
        self._check()
        return os.write(self.fd, data)

    def read(self, size: int) -> bytes:
        """Read at most *size* bytes. Raises OSError, EBADF where the program has closed the descriptor."""
        self._check()
        return os.read(self.fd, size)

    def close(self) -> None:
        """Close it, unless the program has."""
        if self.is_ours():
            os.close(self.fd)
        self._identity = None

    def _check(self) -> None:
        if not self.is_ours():
            raise OSError(errno.EBADF, "the program has closed the runtime's descriptor")


def pipe() -> Tuple[Owned, Owned]:
    """Return the ends of a new pipe, the reading one first; neither blocks."""
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
