"""What the guardian lets the cleaner know, in memory that both share: written by one, read by the other, no waiting."""

from __future__ import annotations

import mmap
from typing import NamedTuple

_SLOTS = 16384
SIGNAL_BITS = 8
"""Bits of a number in ``Known.stop_signals`` that are the signal's."""


class Numbers:
    """A set of positive integers in memory that this process shares with those it forks."""

    def __init__(self) -> None:
        self._slots = memoryview(mmap.mmap(-1, 8 * _SLOTS)).cast("q")
        self._places: dict[int, int] = {}
        self._free: list[int] = []

    def add(self, number: int) -> None:
        """Add *number*. Beyond ``_SLOTS`` numbers, the further ones are not remembered."""
        if number in self._places or len(self._places) >= _SLOTS:
            return
        place = self._free.pop() if self._free else len(self._places)
        self._places[number] = place
        self._slots[place] = number

    def discard(self, number: int) -> None:
        """Remove *number*, if it is there."""
        place = self._places.pop(number, None)
        if place is not None:
            self._slots[place] = 0
            self._free.append(place)

    def read(self) -> set[int]:
        """Return what the process that owns the set had written."""
        return set(self._slots) - {0}


class Known(NamedTuple):
    """What the guardian lets the cleaner know: sets that it goes on writing."""

    groups: Numbers
    """Process groups of workers and masters: the pids of their leaders."""
    sockets: Numbers
    """Inodes of the sockets that the guardian opened."""
    stop_signals: Numbers
    """``pid << SIGNAL_BITS | signal`` of the workers whose stop signal is not SIGTERM."""
