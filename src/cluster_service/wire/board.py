"""The board: memory that one worker and the master share. The guardian makes one for each worker.

The worker writes how it is doing and the master reads it, without a message or a system call of the worker. Its first
page holds eight cells, native 64-bit integers, each written by one process only. Behind it is room for the stacks of
the worker's threads, which faulthandler writes as text; the bytes that were never written are 0.

Whatever the worker wrote is untrusted: ``read_row`` returns values in their range, and ``master.pulses`` bounds how
fast they may grow.
"""

from __future__ import annotations

import signal
import struct
from typing import Any, NamedTuple

CELLS = 8
CELL = 8
ROW = CELLS * CELL
"""Bytes of the cells."""
PAGE = 4096
"""Bytes that the worker maps."""
STACKS_AT = PAGE
"""Where the stacks begin."""
STACKS_SIZE = 256 * 1024
"""Bytes of room for them."""
SIZE = STACKS_AT + STACKS_SIZE
"""Bytes of the whole board."""

BEAT, REQUESTS, ERRORS, STACKS = 0, 1, 2, 3
"""The places of the cells. The others are free."""

MAX_PID = 1 << 22
"""PID_MAX_LIMIT of linux/threads.h: every pid is smaller."""

_CELLS = struct.Struct(f"={CELLS}Q")


def dump_signal() -> int:
    """Return the signal on which a process writes the stacks of all its threads: real-time, and late among them."""
    return int(signal.SIGRTMAX) - 2


def main_signal() -> int:
    """Return the signal on which it writes the main thread's alone."""
    return int(signal.SIGRTMAX) - 3


class Row(NamedTuple):
    """What the cells say."""

    beat: int
    """``time.monotonic_ns()`` when its loop last turned; 0: it gives no beat."""
    requests: int
    """Answers that it has begun to give."""
    errors: int
    """Those among them that were server errors (status 500 to 599); never more than *requests*."""
    stacks_pid: int = 0
    """The process that writes its stacks when it gets ``dump_signal``; 0: none does."""


def cells_of(memory: Any) -> memoryview:
    """Return the cells in *memory*, a writable buffer of at least ``ROW`` bytes (an ``mmap``)."""
    return memoryview(memory).cast("B")[:ROW].cast("Q")


def read_row(data: bytes, now: int) -> Row:
    """Return what the first ``ROW`` bytes of a board say, each value in its range. *now*: ``time.monotonic_ns()``."""
    cells = _CELLS.unpack_from(data)
    requests, pid = cells[REQUESTS], cells[STACKS]
    return Row(min(cells[BEAT], now), requests, min(cells[ERRORS], requests), pid if pid < MAX_PID else 0)
