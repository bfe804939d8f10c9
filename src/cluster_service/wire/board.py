"""The board: one piece of memory that the guardian makes, the workers write, and the master reads.

Each worker has a row of it, so that the master can see how a worker does without a message or a system call of either.
Cells are native 64-bit integers; each is written by one process only, and a reader may see one cell older than another.
"""

from __future__ import annotations

import signal
from typing import Any, NamedTuple

ROWS = 4096
"""More than there can be workers of one service at a time."""

CELLS = 8
CELL = 8
ROW = CELLS * CELL
"""Bytes of a row: one cache line, so that workers do not slow one another down."""
SIZE = ROWS * ROW
"""Bytes of the whole board."""

BEAT, REQUESTS, ERRORS, STACKS = 0, 1, 2, 3
"""The places of the cells in a row. The others are free."""

STACKS_FILE = "memfd:cservice-stacks"
"""How the system names the file that a worker's stacks are written to."""


def dump_signal() -> int:
    """The signal that has a worker write its stacks, where its row says that it can: real-time, and late among them."""
    return int(signal.SIGRTMAX) - 2


def main_signal() -> int:
    """The signal that has it write the main thread's alone."""
    return int(signal.SIGRTMAX) - 3


class Row(NamedTuple):
    """What a row says."""

    beat: int
    """``time.monotonic_ns()`` when its loop last turned; 0: it gives no beat."""
    requests: int
    """Answers that it has begun to give."""
    errors: int
    """Those among them that were server errors (status 500 to 599)."""
    stacks_pid: int = 0
    """The process that writes its stacks when it gets ``dump_signal``; 0: none does."""
    stacks_fd: int = -1
    """The descriptor there of the file that it writes them to."""


def stacks_cell(pid: int, descriptor: int) -> int:
    """What the cell ``STACKS`` says of them."""
    return pid << 32 | descriptor


def cells_of(memory: Any) -> memoryview:
    """The cells of *memory*, a writable buffer of ``SIZE`` bytes (an ``mmap``)."""
    return memoryview(memory).cast("B").cast("Q")


def row_of(cells: memoryview, row: int) -> memoryview:
    """The cells of one row, to be written to."""
    return cells[row * CELLS : (row + 1) * CELLS]


def read_row(cells: memoryview, row: int) -> Row:
    """What a row says now."""
    start = row * CELLS
    stacks = cells[start + STACKS]
    return Row(cells[start + BEAT], cells[start + REQUESTS], cells[start + ERRORS], stacks >> 32, stacks & 0xFFFFFFFF)
