"""The master's view of a worker's board (``wire.board``).

The worker has the same memory open and may change it in any way, at any time. Therefore the master only calls pread(2)
on it: writing, moving the file position or accessing a mapping takes a lock that the worker can hold indefinitely, by
copying to the board from memory whose pages it supplies itself (userfaultfd(2), FUSE). It cannot change the size.
"""

from __future__ import annotations

import os
import time

from cluster_service.wire.board import ROW, STACKS_AT, STACKS_SIZE, Row, read_row


class Board:
    """The board of one worker. It owns the descriptor."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def read(self) -> Row:
        """Return the current values."""
        return read_row(os.pread(self._descriptor, ROW, 0), time.monotonic_ns())

    def stacks(self, start: int = 0, size: int = STACKS_SIZE) -> bytes:
        """Return at most *size* bytes of the text that begins *start* bytes into the area for stacks."""
        return os.pread(self._descriptor, min(size, STACKS_SIZE - start), STACKS_AT + start).partition(b"\0")[0]

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self._descriptor)
        self._descriptor = -1  # a later read raises OSError rather than reading a reused descriptor
