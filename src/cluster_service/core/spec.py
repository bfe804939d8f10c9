"""What is wanted: frozen, absolute, and the same in memory, in the notebook and in the boot message.

Durations are seconds (float). Paths are absolute. Nothing here is resolved later: a relative path, a symlink or an
"auto" has been settled by whoever made the spec.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from .limits import Limits

Kind = Literal["script", "module", "app", "command"]
Share = Literal["auto", "seccomp", "python", "inherit", "none"]
"""How workers get their ports; ``auto`` is the best that the guardian finds it can do."""

DEFAULT_GROUP = "web"


@dataclass(frozen=True)
class Release:
    """What code a worker runs: everything that must be known to start it, and nothing about how many.

    Its ``repr`` stands in logs, and tells neither arguments nor variables.
    """

    kind: Kind
    target: str
    """script: the absolute path of the file, or of a directory or zip file with ``__main__``; module: ``-m name``;
    app: ``package.module:app``; command: the program's absolute path."""
    args: tuple[str, ...] = field(default=(), repr=False)
    cwd: str = "/"
    python: str = ""
    """The interpreter's absolute path (not resolved further: a virtualenv's is a symlink); empty for a command."""
    env: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    """Set on top of the service's own environment, and of what the files say."""
    env_files: tuple[str, ...] = ()
    """Absolute; one with a ``-`` before it need not exist."""
    env_from_files: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    """What they said when the release was made: secrets, most likely."""
    server: str = "uvicorn"
    binds: tuple[str, ...] = ()
    """``127.0.0.1:8000``, ``[::1]:8000``, ``unix:/path``. For an app: where it is served. For others: passed as
    LISTEN_FDS when the share is ``inherit``, else opened for it, whatever its user could bind by itself."""
    within: Limits = field(default_factory=Limits)
    share: Share = "auto"

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Release:
        """Inverse of ``dataclasses.asdict`` after a trip through JSON."""
        known = dict(data)
        known["args"] = tuple(known.get("args", ()))
        known["binds"] = tuple(known.get("binds", ()))
        for name in ("env", "env_from_files"):
            known[name] = tuple((str(key), str(value)) for key, value in known.get(name, ()))
        known["env_files"] = tuple(known.get("env_files", ()))
        known["within"] = Limits.from_json(known.get("within", {}))
        return cls(**known)


@dataclass(frozen=True)
class RestartPolicy:
    """When a worker that ended by itself is started again. Applies to each slot on its own."""

    auto_restart: bool = True
    delay: float = 0.1
    """Seconds before the first restart; doubled for each failure in a row."""
    per_minute: int = 10
    """Restarts in any 60 seconds after which the slot is broken."""
    slow_pace: float = 60.0
    """Seconds between tries while the slot is broken."""


@dataclass(frozen=True)
class Check:
    """An active check of each worker that serves. One that fails two in a row is taken to hang."""

    path: str | None = field(default=None, repr=False)
    """Asked by HTTP, on an address of the worker's own; None: nothing is."""
    status: tuple[int, int] = (200, 399)
    """The first and the last status of a good answer."""
    command: tuple[str, ...] = field(default=(), repr=False)
    """A program, run in the release's environment; exit code 0 is good."""
    interval: float = 10.0
    timeout: float = 5.0

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Check:
        """Inverse of ``dataclasses.asdict`` after a trip through JSON."""
        first, last = data["status"]
        return cls(**{**data, "status": (first, last), "command": tuple(data["command"])})


@dataclass(frozen=True)
class GroupSpec:
    """A number of workers that run the same release."""

    name: str
    count: int
    release: Release
    ready_timeout: float = 60.0
    stop_timeout: float = 60.0
    ready_after: float | None = None
    """A worker that never says that it is ready, and never listens, is taken to be ready after this long alive. None:
    ``worker.READY_AFTER``, or ``worker.READY_AFTER_SILENT`` where it is known not to listen."""
    restart: RestartPolicy = field(default_factory=RestartPolicy)
    monitor: float = 10.0
    """For how long an upgrade's canary, and then the whole, must be healthy; 0: not watched."""
    health_check: str | None = field(default=None, repr=False)
    """The path that an upgrade asks of its canary (``/health``); None: nothing is asked."""
    hang_timeout: float = 60.0
    """A worker whose main loop has not turned for this long hangs; 0: no worker is ever found to."""
    check: Check | None = None
    """What its workers are asked while they serve."""
    max_memory: int = 0
    """Bytes that a worker and its children may use before it is recycled; 0: any number. So with all the limits."""
    max_growth: int = 0
    """Bytes by which that may grow since the worker was ready."""
    memory: Literal["rss", "pss"] = "rss"
    """How it is measured: pages that are shared count in full, or by the share of each that has them."""
    max_requests: int = 0
    """Answers that a worker of an app gives."""
    max_uptime: float = 0.0
    """Seconds that it serves."""
    recycle_at: str = ""
    """The time of day at which all are recycled, as cron(8) has it (``0 4 * * *``), in local time."""
    depends_on: tuple[tuple[str, str], ...] = ()
    """``(group, condition)``: it is first started when every worker of that group is ``ready``, or ``started``."""
    expect_port: bool | int | None = None
    """Whether its workers listen (a number: on that TCP or UDP port); None: as ``ports.expects_port`` infers."""
    allow_port_change: bool = False
    """A worker may listen elsewhere than the one that it replaces."""
    share_with: tuple[str, ...] = ()
    """Groups of the same user with which it shares ports."""
    singleton: bool = False
    """It has one worker, and never two at a time: the old one ends before the new one starts."""
    drain_timeout: float = 10.0
    """Seconds of the stop timeout in which the connections of a program that cannot be drained are finished."""
    listen: Literal["shared", "per-slot"] | None = None
    """Whether its workers share one listening socket of an address; None: by the kind of program."""

    def with_count(self, count: int) -> GroupSpec:
        """The same group with another count."""
        return replace(self, count=count)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> GroupSpec:
        """Inverse of ``dataclasses.asdict`` after a trip through JSON."""
        known = dict(data)
        known["release"] = Release.from_json(known["release"])
        known["restart"] = RestartPolicy(**known.get("restart", {}))
        if known.get("check") is not None:
            known["check"] = Check.from_json(known["check"])
        known["depends_on"] = tuple((str(group), str(what)) for group, what in known.get("depends_on", ()))
        known["share_with"] = tuple(known.get("share_with", ()))
        return cls(**known)


@dataclass(frozen=True)
class Spec:
    """A whole service, as it was asked for at the start."""

    name: str
    groups: tuple[GroupSpec, ...]
    give_up: Literal["never", "all-broken"] = "never"
    """``all-broken``: when every slot of every group is broken the service ends with ``GIVE_UP_CODE``."""
    shutdown_delay: float = 0.0
    """How long a service that was asked to end still serves while it is told not to be ready."""

    def to_json(self) -> dict[str, Any]:
        """A JSON-able object; ``from_json`` reads it."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Spec:
        """Inverse of ``to_json``."""
        return cls(
            name=data["name"],
            groups=tuple(GroupSpec.from_json(group) for group in data["groups"]),
            give_up=data.get("give_up", "never"),
            shutdown_delay=data.get("shutdown_delay", 0.0),
        )


GIVE_UP_CODE = 69
"""The exit code of a service that gave up: EX_UNAVAILABLE of sysexits(3)."""
