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


@dataclass(frozen=True)
class Stop:
    """Ask *worker* to end gracefully (channel, then SIGTERM). When *timeout* is over the core orders the kill."""

    worker: int
    timeout: float
    reason: str


@dataclass(frozen=True)
class Kill:
    """SIGKILL to the worker's process group: its announced time is over."""

    worker: int


@dataclass(frozen=True)
class Sweep:
    """SIGKILL to whatever is left in the process group of a worker that has exited."""

    worker: int


@dataclass(frozen=True)
class Forget:
    """The exit of *worker* has been accounted for."""

    worker: int


@dataclass(frozen=True)
class CloseListener:
    """Nobody uses the shared socket of *address* any more, and nobody is about to."""

    address: str


@dataclass(frozen=True)
class Publish:
    """Something happened that hooks, streams and the log should hear of."""

    event: Event


@dataclass(frozen=True)
class End:
    """Every worker is gone and the service may end with exit code *code*. *now*: kill what is left."""

    code: int = 0
    now: bool = False


Action = Start | Stop | Kill | Sweep | Forget | CloseListener | Publish | End
