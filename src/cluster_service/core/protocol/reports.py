"""Reports of the master: results of work that the core ordered (``Check``, ``RunTest``, ``Dump``), and observations.

A report about an operation that has ended or moved on is ignored, so each report is safe to repeat.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True)
class Checked:
    """Result of checking the code of a release. *error*: why it cannot run, one or more lines; empty: it can."""

    operation: str
    error: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Said:
    """Output lines of a test."""

    operation: str
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Tested:
    """Result of a test. *error*: why it failed; empty: it passed."""

    operation: str
    error: str = ""


class Pulse(NamedTuple):
    """Content of one worker's board. The counts only grow."""

    beat: int
    """Changes whenever its event loop or thread pool makes progress; 0: the worker sends no heartbeat."""
    requests: int = 0
    errors: int = 0
    age: float | None = None
    """Seconds since its last progress, if known."""
    memory: int = 0
    """Bytes in use; 0: not measured."""
    excused: bool = False
    """True if it is blocked because its output is not read, which is not its fault."""


@dataclass(frozen=True)
class Sample:
    """One reading of all boards: worker number → content."""

    pulses: dict[int, Pulse]


@dataclass(frozen=True)
class Dumped:
    """Stacks of a worker that hangs, in lines; empty if they are not available."""

    group: str
    slot: int
    pid: int
    why: str
    stacks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Examined:
    """Result of a health check of a serving worker. *error*: what is wrong; empty: nothing."""

    worker: int
    error: str = ""


@dataclass(frozen=True)
class Due:
    """The scheduled time to recycle a group has come. *why*: a sentence that says so."""

    group: str
    why: str
    ago: float = 0.0
    """Seconds since that time. Workers that became ready later are not recycled."""
