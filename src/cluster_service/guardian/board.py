"""The board (``wire.board``), as the guardian keeps it: who has which row.

The guardian empties rows and does not map the memory: what a worker writes there concerns the master alone. The size is
sealed, because whoever reads a mapping that a worker has cut short dies of it (SIGBUS, mmap(2)).
"""

from __future__ import annotations

import fcntl
import os

from cluster_service.wire.board import ROW, ROWS, SIZE


class Board:
    """The memory and its free rows. Where the machine gives none, there are no rows: ``take`` returns -1."""

    def __init__(self) -> None:
        self.descriptor = -1
        """-1: there is no board."""
        self._taken: set[int] = set()
        try:
            descriptor = os.memfd_create("cservice-board", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        except OSError:
            return
        try:
            os.ftruncate(descriptor, SIZE)
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        except OSError:
            os.close(descriptor)
            return
        self.descriptor = descriptor

    def __repr__(self) -> str:
        return f"<Board: {len(self._taken)} of {ROWS if self.descriptor >= 0 else 0} rows taken>"

    def take(self) -> int:
        """Return the lowest free row, emptied; -1 when there is none."""
        if self.descriptor < 0 or len(self._taken) == ROWS:
            return -1
        row = next(number for number in range(ROWS) if number not in self._taken)
        try:
            os.pwrite(self.descriptor, bytes(ROW), row * ROW)
        except OSError:  # no memory
            return -1
        self._taken.add(row)
        return row

    def give_back(self, row: int) -> None:
        """The worker that had *row* is gone. Nothing happens for -1."""
        self._taken.discard(row)
