"""Events that a service publishes: one frozen record per event; its docstring is its documentation.

The log lines, hooks (``cservice.on``), event stream and reference page are made from these records. The master adds
``id``, ``at`` (ISO 8601) and ``service``.
"""

from __future__ import annotations

from dataclasses import dataclass

REASONS = ("start", "restart", "failure", "upgrade", "rollback", "recycle", "hang", "scale", "shutdown")
"""Reasons for the start or stop of a worker."""


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
    """A worker serves. *by*: told, listen, notify, or alive (no signal, but it ran for ``ready_after``)."""

    group: str
    slot: int
    pid: int
    by: str
    after_s: float


@dataclass(frozen=True)
class WorkerExit:
    """A worker's process exited. *reason*: failure if it was not asked to; *was_ready*: whether it ever served."""

    group: str
    slot: int
    pid: int
    reason: str
    exit_code: int | None
    signal: str | None
    was_ready: bool
    detail: str = ""
    """The cause in one sentence, with its error line or the failed bind."""
    repeated: int = 0
    """How many failures in a row had the same cause before; the log entry is short if this is not 0."""


@dataclass(frozen=True)
class WorkerStop:
    """A worker was asked to exit; it is killed after *timeout_s*."""

    group: str
    slot: int
    pid: int
    reason: str
    timeout_s: float


@dataclass(frozen=True)
class WorkerKill:
    """A worker was killed because it did not exit within its stop timeout."""

    group: str
    slot: int
    pid: int
    reason: str


@dataclass(frozen=True)
class WorkerHung:
    """A worker hangs and will be replaced. *stacks*: stacks of its threads, in lines as ``faulthandler`` writes them;
    empty if they are not available.
    """

    group: str
    slot: int
    pid: int
    detail: str
    stacks: tuple[str, ...] = ()


@dataclass(frozen=True)
class WorkerRecycle:
    """A worker reached a recycling limit and will be replaced. *detail*: which limit, in one sentence."""

    group: str
    slot: int
    pid: int
    detail: str


@dataclass(frozen=True)
class SlotBroken:
    """A slot keeps failing: it is retried at long intervals. Other slots are not affected."""

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
    """The service no longer listens on an address, because no worker used it."""

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
    """A long command started."""

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
    """A long command ended. *state*: done, failed, undone or cancelled. *replaced* of *of* slots are as desired."""

    operation: str
    command: str
    state: str
    reason: str | None
    replaced: int = 0
    of: int = 0


@dataclass(frozen=True)
class MasterStart:
    """A master started; *adopted* workers were already running. *safe*: without user hooks and TCP endpoint."""

    adopted: int
    safe: bool
    starts: int


@dataclass(frozen=True)
class Command:
    """A command that changes something was received. *door*: endpoint. *outcome*: done, accepted, or an error code."""

    name: str
    door: str
    outcome: str


@dataclass(frozen=True)
class ConfigReload:
    """The configuration was reloaded by *operation*. *changes*: sentences; empty if nothing differs. A configuration
    with an error causes no event, because nothing changes.
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
