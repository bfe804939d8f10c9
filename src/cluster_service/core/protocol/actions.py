"""Actions that the core orders. The master performs them in order; each of them is safe to repeat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .event_records import Event


@dataclass(frozen=True)
class Start:
    """Start worker number *worker* in a slot. *generation* names the release (``Cluster.release_of``)."""

    worker: int
    group: str
    slot: int
    generation: int
    reason: str
    private: bool = False
    """Isolate its ports, so that no client reaches it."""


@dataclass(frozen=True)
class Stop:
    """Ask *worker* to stop: channel message, then stop signal. The core orders ``Kill`` after *timeout* seconds."""

    worker: int
    timeout: float
    reason: str


@dataclass(frozen=True)
class Kill:
    """Send SIGKILL to the worker's process group: its announced deadline has passed."""

    worker: int


@dataclass(frozen=True)
class Sweep:
    """End the processes that *worker* left when it exited: stop signal, then SIGKILL *after* this many seconds."""

    worker: int
    after: float = 0.0


@dataclass(frozen=True)
class Forget:
    """Drop *worker*: its exit has been reported and counted."""

    worker: int


@dataclass(frozen=True)
class CloseListener:
    """Close the shared socket of *address*, which no worker uses or needs."""

    address: str


@dataclass(frozen=True)
class Check:
    """Check whether the code of *generation* can run at all; answered by ``reports.Checked``."""

    operation: str
    group: str
    generation: int


@dataclass(frozen=True)
class RunTest:
    """Test the code of *generation*; answered by ``reports.Tested``. A repeated order for an operation has no effect.

    *health_check*: a path, requested first from the first of *addresses*. *script*: run with *addresses* in its
    environment. *timeout*: seconds for each; None: unlimited.
    """

    operation: str
    group: str
    generation: int
    addresses: tuple[str, ...]
    script: str | None
    health_check: str | None
    timeout: float | None


@dataclass(frozen=True)
class Abandon:
    """Kill the check or test that runs for *operation*."""

    operation: str


@dataclass(frozen=True)
class Dump:
    """Record the stacks of *worker*, which hangs; answered by ``reports.Dumped``. *why*: a sentence."""

    worker: int
    why: str


@dataclass(frozen=True)
class Publish:
    """Publish an event to hooks, event streams and the log."""

    event: Event


@dataclass(frozen=True)
class Fault:
    """Log a bug that the core found in itself; it continues. *what*: a sentence."""

    what: str


@dataclass(frozen=True)
class Warn:
    """Log a warning. *what*: a sentence."""

    what: str


@dataclass(frozen=True)
class End:
    """End the service with exit code *code*. *now*: kill remaining processes."""

    code: int = 0
    now: bool = False


Action = (
    Start
    | Stop
    | Kill
    | Sweep
    | Forget
    | CloseListener
    | Check
    | RunTest
    | Abandon
    | Dump
    | Publish
    | Warn
    | Fault
    | End
)
