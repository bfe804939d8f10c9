"""Types of a service's answers, for type checkers: the objects of ``--json``.

They are plain dictionaries, so that a client returns exactly what ``--json`` prints, and fields of a newer service stay
readable. Times are ISO 8601 in UTC; fields that end in ``_s`` are seconds.
"""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypedDict

State = Literal["starting", "serving", "draining", "stopping", "waiting", "broken"]


class Worker(TypedDict):
    """A slot and its worker, if it has one."""

    group: str
    slot: int
    pid: int | None
    state: State
    generation: int
    reason: str
    target: str
    cwd: str
    python: str
    uptime_s: float | None
    restarts: int
    memory_bytes: int | None
    cpu_percent: float | None
    listening: list[str]
    connections: int | None
    next_try_s: NotRequired[float]
    """Seconds until the next start attempt of a waiting slot."""
    detail: NotRequired[str]
    """Why it does not serve, or why clients cannot reach it."""
    not_listening: NotRequired[bool]
    """True: it serves, should listen on a port, and does not."""


class Problem(TypedDict):
    """A slot that does not serve."""

    group: str
    slot: int
    state: State
    detail: str | None
    output: NotRequired[list[str]]


class Health(TypedDict):
    """The health of the service; a custom ``health`` command may add fields."""

    status: Literal["ok", "degraded", "down"]
    serving: int
    wanted: int
    problems: list[Problem]


class Step(TypedDict):
    """One step of an operation."""

    at: str
    text: str


class Operation(TypedDict):
    """A long-running command."""

    id: str
    command: str
    state: Literal["running", "done", "failed", "undone", "cancelled"]
    reason: str | None
    steps: list[Step]
    replaced: int
    of: int
    steps_dropped: NotRequired[int]
    """Number of steps dropped from the front."""
    started_at: NotRequired[str]
    ended_at: NotRequired[str | None]
    stage: NotRequired[str]
    """Only while an upgrade runs."""
    workers: NotRequired[dict[str, int]]
    monitor_left_s: NotRequired[float | None]


class Info(TypedDict):
    """General information about the service."""

    name: str
    version: str
    pid: int
    master_pid: int
    uptime_s: float
    share: str
    ports: list[Any]
    doors: list[str]
    probes: list[str]
    groups: dict[str, Any]
    operation: Operation | None


class Event(TypedDict):
    """An event; it has further fields of its own."""

    id: int
    at: str
    service: str
    event: str
