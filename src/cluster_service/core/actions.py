"""What the core asks for. The master carries actions out in their order; every one is safe to repeat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .events import Event


@dataclass(frozen=True)
class Start:
    """Start worker number *worker* in a slot. *generation* names the release (``Cluster.release_of``)."""

    worker: int
    group: str
    slot: int
    generation: int
    reason: str
    private: bool = False
    """Its ports are its own: no client reaches it."""


@dataclass(frozen=True)
class Stop:
    """Ask *worker* to end gracefully (channel, then its stop signal). After *timeout* the core orders the kill."""

    worker: int
    timeout: float
    reason: str


@dataclass(frozen=True)
class Kill:
    """SIGKILL to the worker's process group: its announced time is over."""

    worker: int


@dataclass(frozen=True)
class Sweep:
    """End what *worker*, which has exited, has left: its stop signal and, *after* so many seconds, SIGKILL."""

    worker: int
    after: float = 0.0


@dataclass(frozen=True)
class Forget:
    """The exit of *worker* has been accounted for."""

    worker: int


@dataclass(frozen=True)
class CloseListener:
    """Nobody uses the shared socket of *address* any more, and nobody is about to."""

    address: str


@dataclass(frozen=True)
class Check:
    """Look whether the code of *generation* can be run at all; answered by ``reports.Checked``."""

    operation: str
    group: str
    generation: int


@dataclass(frozen=True)
class RunTest:
    """Try the code of *generation*, then report ``Tested``. A second one of the same operation changes nothing.

    *script* is run with *addresses* in its environment; with *health_check*, a path, the first of them is asked first.
    *timeout*: seconds for each; None: any.
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
    """The check or test that runs for *operation* is not needed any more: kill it."""

    operation: str


@dataclass(frozen=True)
class Dump:
    """Have it seen what *worker*, which hangs, is doing; answered by ``reports.Dumped``. *why*: a sentence."""

    worker: int
    why: str


@dataclass(frozen=True)
class Publish:
    """Something happened that hooks, streams and the log should hear of."""

    event: Event


@dataclass(frozen=True)
class Fault:
    """The core found a mistake of its own, and goes on. *what*: a sentence for the log, and for whoever mends it."""

    what: str


@dataclass(frozen=True)
class Warn:
    """Something that the operator should know. *what*: a sentence for the log."""

    what: str


@dataclass(frozen=True)
class End:
    """Every worker is gone and the service may end with exit code *code*. *now*: kill what is left."""

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
