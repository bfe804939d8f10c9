"""What a service answers, for type checkers: the objects of ``--json``, as they are.

They are dictionaries, not classes of ours: what a newer service says beyond this is there to be read too, and what is
printed by ``--json`` and what a client returns are the same. Times are ISO 8601, UTC; ``…_s`` is seconds.
"""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypedDict

State = Literal["starting", "serving", "draining", "stopping", "waiting", "broken"]


class Worker(TypedDict):
    """A slot, and the worker in it, if there is one."""

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
    """Of a slot that waits: until its next try."""
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
    """Whether as many serve as should; a ``health`` command of the service's own may add to it."""

    status: Literal["ok", "degraded", "down"]
    serving: int
    wanted: int
    problems: list[Problem]


class Step(TypedDict):
    """Progress."""

    at: str
    text: str


class Operation(TypedDict):
    """A long command."""

    id: str
    command: str
    state: Literal["running", "done", "failed", "undone", "cancelled"]
    reason: str | None
    steps: list[Step]
    replaced: int
    of: int
    steps_dropped: NotRequired[int]
    """How many of its first steps are not remembered."""
    started_at: NotRequired[str]
    ended_at: NotRequired[str | None]
    stage: NotRequired[str]
    """Of an upgrade that runs."""
    workers: NotRequired[dict[str, int]]
    monitor_left_s: NotRequired[float | None]


class Info(TypedDict):
    """The service as a whole."""

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
    """Something that has happened, and beside these its own fields."""

    id: int
    at: str
    service: str
    event: str
