"""The protocol between a worker and the service: messages on its channel, and its board in shared memory."""

from __future__ import annotations

import json
import signal
import struct
from typing import Any, Dict, NamedTuple

from . import validation

CHECK_ADDRESS = "X_CSERVICE_CHECK"
"""The ``notify`` field by which the worker reports that it answers health checks: the address of CSERVICE_CHECK."""
LIMIT = validation.MAX_BYTES
"""Maximum length of a datagram, in bytes."""
BUS_LIMIT = 60 * 1024
"""Maximum length of a message of the bus, in bytes of JSON."""
BUS = frozenset(("taken", "answer", "master", "message"))
"""The types of bus messages to a worker."""


class ChannelError(Exception):
    """The datagram is not a message."""


def encode(message: Dict[str, Any]) -> bytes:
    """Return *message* as one datagram. Raises ChannelError if it is longer than ``LIMIT`` or not valid JSON."""
    try:
        data = json.dumps(message, separators=(",", ":"), allow_nan=False).encode()
    except (ValueError, RecursionError) as error:
        raise ChannelError(f"a message that cannot be JSON: {error}") from None
    if len(data) > LIMIT:
        raise ChannelError(f"a message of {len(data)} bytes is over the limit of {LIMIT}")
    return data


def decode(data: bytes) -> Dict[str, Any]:
    """Return the message in *data*, within the limits of ``validation``. Raises ChannelError."""
    try:
        return validation.message(validation.loads(data, LIMIT))
    except validation.Invalid as error:
        raise ChannelError(str(error)) from None


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
