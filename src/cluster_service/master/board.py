"""The board (``wire.board``), as the master reads it."""

from __future__ import annotations

import mmap
import os

from cluster_service.wire.board import SIZE, Row, cells_of, read_row


class Board:
    """The rows of all workers. Raises OSError or ValueError where *descriptor* is no board. It takes the descriptor."""

    def __init__(self, descriptor: int) -> None:
        self._cells = cells_of(mmap.mmap(descriptor, SIZE))
        os.close(descriptor)

    def read(self, row: int) -> Row:
        """What the row says now."""
        return read_row(self._cells, row)
