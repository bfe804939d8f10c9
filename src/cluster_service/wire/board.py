"""The board: memory shared by one worker and the master. The guardian creates one for each worker.

The worker writes its state and the master reads it, without a message or a system call by the worker. The first page
contains eight cells, native 64-bit integers, each written by one process only. After it there is space for the stacks
of the worker's threads, which faulthandler writes as text; bytes that were never written are 0.

The content is untrusted: ``read_row`` clamps values to their range, and ``master.pulses`` limits how fast they may
grow.
"""

from __future__ import annotations

import signal
import struct
from typing import Any, NamedTuple

CELLS = 8
CELL = 8
ROW = CELLS * CELL
"""Size of the cells, in bytes."""
PAGE = 4096
"""Size of the part that the worker maps, in bytes."""
STACKS_AT = PAGE
"""Offset of the stacks."""
STACKS_SIZE = 256 * 1024
"""Space for the stacks, in bytes."""
SIZE = STACKS_AT + STACKS_SIZE
"""Size of the board, in bytes."""

BEAT, REQUESTS, ERRORS, STACKS = 0, 1, 2, 3
"""Indexes of the cells. The others are unused."""

MAX_PID = 1 << 22
"""PID_MAX_LIMIT of linux/threads.h: every pid is smaller."""

_CELLS = struct.Struct(f"={CELLS}Q")


def dump_signal() -> int:
    """Return the signal on which a process writes the stacks of all its threads: one of the last real-time signals."""
    return int(signal.SIGRTMAX) - 2


def main_signal() -> int:
    """Return the signal on which it writes the stack of the main thread only."""
    return int(signal.SIGRTMAX) - 3


class Row(NamedTuple):
    """The values of the cells."""

    beat: int
    """``time.monotonic_ns()`` of the last heartbeat; 0: it sends none."""
    requests: int
    """Number of answers started."""
    errors: int
    """Number of those that were server errors (status 500 to 599); at most *requests*."""
    stacks_pid: int = 0
    """The process that writes its stacks on ``dump_signal``; 0: none."""


def cells_of(memory: Any) -> memoryview:
    """Return the cells in *memory*, a writable buffer of at least ``ROW`` bytes (an ``mmap``)."""
    return memoryview(memory).cast("B")[:ROW].cast("Q")


def read_row(data: bytes, now: int) -> Row:
    """Return the first ``ROW`` bytes of a board as values in their range. *now*: ``time.monotonic_ns()``."""
    cells = _CELLS.unpack_from(data)
    requests, pid = cells[REQUESTS], cells[STACKS]
    return Row(min(cells[BEAT], now), requests, min(cells[ERRORS], requests), pid if pid < MAX_PID else 0)
