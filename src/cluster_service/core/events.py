"""Everything that a service tells the world. One frozen record an event, and its docstring is its documentation.

From these come the log line, the hooks (``cservice.on``), the stream and the reference page. ``id``, ``at`` (ISO 8601)
and ``service`` are added by the master when it publishes.
"""

from __future__ import annotations

from dataclasses import dataclass

REASONS = ("start", "restart", "failure", "upgrade", "rollback", "recycle", "hang", "scale", "shutdown")
"""Why a worker was started or ended."""


@dataclass(frozen=True)
class WorkerStart:
    """A worker's process was started."""

    group: str
    slot: int
    pid: int
    reason: str
    generation: int


@dataclass(frozen=True)
class WorkerReady:
    """A worker is serving. *by*: told, listen, notify or alive (it said nothing and lived for ``ready_after``)."""

    group: str
    slot: int
    pid: int
    by: str
    after_s: float


@dataclass(frozen=True)
class WorkerExit:
    """A worker's process ended. *reason*: failure when nobody asked it to; *was_ready*: whether it ever served."""

    group: str
    slot: int
    pid: int
    reason: str
    exit_code: int | None
    signal: str | None
    was_ready: bool
    detail: str = ""
    """The cause in one sentence, with the last line that it wrote or the bind that failed."""
    repeated: int = 0
    """How often in a row this slot has failed in this same way before; the log is short where this is not 0."""


@dataclass(frozen=True)
class WorkerStop:
    """A worker was asked to end gracefully; after *timeout_s* it will be killed."""

    group: str
    slot: int
    pid: int
    reason: str
    timeout_s: float


@dataclass(frozen=True)
class WorkerKill:
    """A worker was killed: it had not ended (or had not become ready) in its announced time."""

    group: str
    slot: int
    pid: int
    reason: str


@dataclass(frozen=True)
class WorkerHung:
    """A worker does not do its work any more, and will be replaced. *stacks*: what its threads were doing, in lines as
    ``faulthandler`` writes them; none where that could not be had.
    """

    group: str
    slot: int
    pid: int
    detail: str
    stacks: tuple[str, ...] = ()


@dataclass(frozen=True)
class WorkerRecycle:
    """A worker has served for long enough, and will be replaced. *detail*: by which limit, in one sentence."""

    group: str
    slot: int
    pid: int
    detail: str


@dataclass(frozen=True)
class SlotBroken:
    """A slot failed too often: it is tried at a slow pace, the others serve on."""

    group: str
    slot: int
    failures: int
    detail: str


@dataclass(frozen=True)
class SlotRecovered:
    """A slot that was broken serves again."""

    group: str
    slot: int


@dataclass(frozen=True)
class PortOpen:
    """The service listens on an address."""

    address: str


@dataclass(frozen=True)
class PortClosed:
    """The service no longer listens on an address: nobody used it any more."""

    address: str


@dataclass(frozen=True)
class PortShutdown:
    """A worker shut down the listening socket that all workers share (shutdown(2)). *listening*: whether the service
    listens on it again; *detail*: why it does not. Once it does, another event says so. Shutdowns within half a second
    of each other are one event.
    """

    address: str
    listening: bool
    detail: str = ""


@dataclass(frozen=True)
class OperationStart:
    """A long command began."""

    operation: str
    command: str


@dataclass(frozen=True)
class OperationStep:
    """A long command made progress."""

    operation: str
    command: str
    text: str


@dataclass(frozen=True)
class OperationEnd:
    """A long command ended. *state*: done, failed, undone or cancelled. *replaced* of its *of* slots are as wanted."""

    operation: str
    command: str
    state: str
    reason: str | None
    replaced: int = 0
    of: int = 0


@dataclass(frozen=True)
class MasterStart:
    """A master took over; *adopted* workers were running already. *safe*: without user hooks and the TCP door."""

    adopted: int
    safe: bool
    starts: int


@dataclass(frozen=True)
class Command:
    """A command that changes something was given at a door. *outcome*: done, accepted, or an error code."""

    name: str
    door: str
    outcome: str


@dataclass(frozen=True)
class ConfigReload:
    """The configuration was read again and taken up by *operation*; *changes* are sentences, none where it says the
    same as before. A configuration with a mistake is no event: nothing has changed.
    """

    operation: str
    changes: tuple[str, ...]


Event = (
    WorkerStart
    | WorkerReady
    | WorkerExit
    | WorkerStop
    | WorkerKill
    | WorkerHung
    | WorkerRecycle
    | SlotBroken
    | SlotRecovered
    | PortOpen
    | PortClosed
    | PortShutdown
    | OperationStart
    | OperationStep
    | OperationEnd
    | MasterStart
    | Command
    | ConfigReload
)

EVENTS: tuple[type, ...] = (
    WorkerStart,
    WorkerReady,
    WorkerExit,
    WorkerStop,
    WorkerKill,
    WorkerHung,
    WorkerRecycle,
    SlotBroken,
    SlotRecovered,
    PortOpen,
    PortClosed,
    PortShutdown,
    OperationStart,
    OperationStep,
    OperationEnd,
    MasterStart,
    Command,
    ConfigReload,
)
