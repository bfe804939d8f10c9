"""State that the guardian shares with the cleaner in shared memory: one writer, one reader, no locks."""

from __future__ import annotations

import mmap
from typing import NamedTuple

_SLOTS = 16384
SIGNAL_BITS = 8
"""Number of low-order bits that hold the signal in a number of ``Known.stop_signals``."""


class Numbers:
    """Set of positive integers in memory that this process shares with its forked children."""

    def __init__(self) -> None:
        self._slots = memoryview(mmap.mmap(-1, 8 * _SLOTS)).cast("q")
        self._places: dict[int, int] = {}
        self._free: list[int] = []

    def add(self, number: int) -> None:
        """Add *number*, unless the set already has ``_SLOTS`` numbers."""
        if number in self._places or len(self._places) >= _SLOTS:
            return
        place = self._free.pop() if self._free else len(self._places)
        self._places[number] = place
        self._slots[place] = number

    def discard(self, number: int) -> None:
        """Remove *number* if it is present."""
        place = self._places.pop(number, None)
        if place is not None:
            self._slots[place] = 0
            self._free.append(place)

    def read(self) -> set[int]:
        """Return the numbers that the owner of the set has written."""
        return set(self._slots) - {0}


class Known(NamedTuple):
    """State shared with the cleaner: sets that the guardian keeps up to date."""

    groups: Numbers
    """Process groups of workers and masters (the pids of the leaders)."""
    sockets: Numbers
    """Inode numbers of the sockets that the guardian has opened."""
    stop_signals: Numbers
    """``pid << SIGNAL_BITS | signal`` for each worker whose stop signal is not SIGTERM."""
