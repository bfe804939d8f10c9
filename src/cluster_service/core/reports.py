"""What the master reports of work that it did for the core (``actions.Check``, ``actions.RunTest``) and of what it saw.

A report about an operation that has ended, or has gone on since, is ignored: every one is safe to repeat.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True)
class Checked:
    """The code of a release was looked at. *error*: why it cannot be run, of several lines perhaps; empty: it can."""

    operation: str
    error: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Said:
    """A test wrote these lines."""

    operation: str
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Tested:
    """A test has ended. *error*: why it failed; empty: it passed."""

    operation: str
    error: str = ""


class Pulse(NamedTuple):
    """What a worker's row on the board said. The counts only grow."""

    beat: int
    """Changes with each turn of its loop; 0: it gives no beat."""
    requests: int = 0
    errors: int = 0
    age: float | None = None
    """Seconds since it last turned, where that is known."""
    memory: int = 0
    """Bytes that it uses; 0: nobody has looked."""
    excused: bool = False
    """It stands still because nobody reads what it writes, which is not its fault."""


@dataclass(frozen=True)
class Sample:
    """The board was read: worker's number → its pulse."""

    pulses: dict[int, Pulse]


@dataclass(frozen=True)
class Dumped:
    """The stacks of a worker that hangs: lines, none where they could not be had."""

    group: str
    slot: int
    pid: int
    why: str
    stacks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Examined:
    """A worker that serves was asked whether it is well. *error*: what is wrong; empty: it is."""

    worker: int
    error: str = ""


@dataclass(frozen=True)
class Due:
    """The time of day has come at which a group is recycled. *why*: a sentence that says so."""

    group: str
    why: str
    ago: float = 0.0
    """Seconds since: whoever was not ready by then is not meant."""
