"""The desired service: frozen records, the same in memory, in the checkpoint and in the boot message.

Durations are seconds (float). Paths are absolute. Everything has been resolved by the caller: relative paths, symlinks
and automatic values. ``ProcessLimits`` is part of the release, so that an undo restores it too. Its values are stored
in a canonical form that users can read, so equal settings compare equal and a reload can show them.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

Kind = Literal["script", "module", "app", "command"]
Share = Literal["auto", "seccomp", "python", "inherit", "none"]
"""How workers get their ports; ``auto``: the best mode that the guardian supports here."""

DEFAULT_GROUP = "web"


UNLIMITED = "unlimited"
SPREAD = "spread"
TERM = "TERM"
STDIN_NULL, STDIN_KEEP_OPEN = "null", "keep-open"


@dataclass(frozen=True)
class ProcessLimits:
    """User, resource limits and scheduling of a worker. What is not set is inherited from the guardian."""

    user: str | None = None
    user_group: str | None = None
    umask: str | None = None
    """Octal."""
    limits: tuple[str, ...] = ()
    """``nofile=1024:65536`` (soft and hard), ``core=0``, ``as=unlimited``; bytes and seconds are plain numbers."""
    nice: int | None = None
    cpu_affinity: str | None = None
    """``0-3,6``; ``spread``: slot n gets the nth CPU that the service may use; ``spread:0-3``: the nth of these."""
    oom_score_adj: int | None = None
    stdin: str = STDIN_NULL
    """``null``, or ``keep-open``: a pipe without data that never reaches end of file."""
    stop_signal: str = TERM
    """The signal that asks it to exit, in the form of ``wire.signals.signal_number``; a name without SIG."""

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> ProcessLimits:
        """Inverse of ``dataclasses.asdict`` after a trip through JSON."""
        return cls(**{**data, "limits": tuple(data.get("limits", ()))})


def parse_limit(limit: str) -> tuple[str, int, int]:
    """Return ``nofile=1024:unlimited`` as ``("nofile", 1024, -1)``, the values that Python's setrlimit takes."""
    name, _, pair = limit.partition("=")
    soft, _, hard = pair.partition(":")
    return name, _parse_number(soft), _parse_number(hard or soft)


def _parse_number(text: str) -> int:
    return -1 if text == UNLIMITED else int(text)


def choose_cpus(affinity: str, slot: int, usable: Sequence[int]) -> list[int]:
    """Return the CPUs of the worker in *slot*. *usable*: the CPUs that the service may use, ascending."""
    if not affinity.startswith(SPREAD):
        return parse_cpu_list(affinity)
    _, _, among = affinity.partition(":")
    places = [cpu for cpu in parse_cpu_list(among) if cpu in usable] if among else list(usable)
    return [places[(slot - 1) % len(places)]] if places else []


def parse_cpu_list(text: str) -> list[int]:
    """Return ``0-3,6`` as ``[0, 1, 2, 3, 6]``. Raises ValueError."""
    found: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.partition("-")
        found |= set(range(int(first), int(last if dash else first) + 1))
    return sorted(found)


def format_cpu_list(cpus: Sequence[int]) -> str:
    """Inverse of ``parse_cpu_list``."""
    runs: list[list[int]] = []
    for cpu in sorted(set(cpus)):
        if runs and cpu == runs[-1][1] + 1:
            runs[-1][1] = cpu
        else:
            runs.append([cpu, cpu])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


@dataclass(frozen=True)
class Release:
    """The code of a worker, and everything that is needed to start it.

    Its ``repr`` appears in logs, so it omits arguments and variables.
    """

    kind: Kind
    target: str
    """script: the absolute path of the file, or of a directory or zip file with ``__main__``; module: ``-m name``;
    app: ``package.module:app``; command: the program's absolute path."""
    args: tuple[str, ...] = field(default=(), repr=False)
    cwd: str = "/"
    python: str = ""
    """Absolute path of the interpreter, with symlinks (a virtualenv's is one); empty for a command."""
    env: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    """Variables set in addition to the service's environment and the variable files."""
    env_files: tuple[str, ...] = ()
    """Absolute paths; a file with the prefix ``-`` need not exist."""
    env_from_files: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    """Their content when the release was created; probably secrets."""
    server: str = "uvicorn"
    binds: tuple[str, ...] = ()
    """``127.0.0.1:8000``, ``[::1]:8000``, ``unix:/path``. For an app: where it is served. For others: passed as
    LISTEN_FDS if the share is ``inherit``, else opened by the guardian, whatever the worker's user may bind."""
    within: ProcessLimits = field(default_factory=ProcessLimits)
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
        known["within"] = ProcessLimits.from_json(known.get("within", {}))
        return cls(**known)


@dataclass(frozen=True)
class RestartPolicy:
    """When a worker that exited on its own is restarted. Applies to each slot separately."""

    auto_restart: bool = True
    delay: float = 0.1
    """Seconds before the first restart; doubled with each further failure."""
    per_minute: int = 10
    """Restarts in any 60 seconds after which the slot is broken."""
    slow_pace: float = 60.0
    """Seconds between attempts while the slot is broken."""


@dataclass(frozen=True)
class Check:
    """A health check of each serving worker. A worker that fails two in a row counts as hung."""

    path: str | None = field(default=None, repr=False)
    """Path requested by HTTP on the worker's own address; None: no request."""
    status: tuple[int, int] = (200, 399)
    """The first and the last status of a successful response."""
    command: tuple[str, ...] = field(default=(), repr=False)
    """A program, run in the environment of the release; exit code 0 is success."""
    interval: float = 10.0
    timeout: float = 5.0

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Check:
        """Inverse of ``dataclasses.asdict`` after a trip through JSON."""
        first, last = data["status"]
        return cls(**{**data, "status": (first, last), "command": tuple(data["command"])})


@dataclass(frozen=True)
class GroupSpec:
    """A group: a number of workers that run the same release."""

    name: str
    count: int
    release: Release
    ready_timeout: float = 60.0
    stop_timeout: float = 60.0
    ready_after: float | None = None
    """Seconds after which a worker counts as ready if it neither reports readiness nor listens. None:
    ``liveness.READY_AFTER``, or ``liveness.READY_AFTER_SILENT`` if it is known not to listen."""
    restart: RestartPolicy = field(default_factory=RestartPolicy)
    monitor: float = 10.0
    """Seconds for which an upgrade's canary, and then all new workers, must be healthy; 0: not monitored."""
    health_check: str | None = field(default=None, repr=False)
    """Path that an upgrade requests from its preview worker (``/health``); None: no request."""
    hang_timeout: float = 60.0
    """Seconds for which the main loop of a worker may be blocked before it is replaced; 0: unlimited."""
    check: Check | None = None
    """Health check of serving workers; None: none."""
    max_memory: int = 0
    """Bytes that a worker and its children may use before it is recycled; 0, here and below: unlimited."""
    max_growth: int = 0
    """Bytes by which its memory may grow after it became ready."""
    memory: Literal["rss", "pss"] = "rss"
    """How memory is measured: shared pages count fully (rss), or divided by the processes that share them (pss)."""
    max_requests: int = 0
    """Most responses of a worker of an app."""
    max_uptime: float = 0.0
    """Most seconds for which a worker serves."""
    recycle_at: str = ""
    """When all workers are recycled, as a cron(8) expression (``0 4 * * *``) in local time."""
    depends_on: tuple[tuple[str, str], ...] = ()
    """``(group, condition)``: it first starts when every worker of that group is ``ready`` or ``started``."""
    expect_port: bool | int | None = None
    """Whether its workers listen (a number: on that port); None: inferred by ``port_checks.expects_port``."""
    allow_port_change: bool = False
    """Whether a worker may listen on other ports than the one that it replaces."""
    share_with: tuple[str, ...] = ()
    """Groups of the same user with which it shares ports."""
    singleton: bool = False
    """Whether it never has two workers at a time: the old one exits before the new one starts."""
    drain_timeout: float = 10.0
    """Seconds of the stop timeout for finishing the connections of a program that cannot drain itself."""
    listen: Literal["shared", "per-slot"] | None = None
    """Whether workers share one listening socket per address; None: depends on the kind of program."""

    def with_count(self, count: int) -> GroupSpec:
        """Return the same group with another count."""
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
    """A whole service, as configured."""

    name: str
    groups: tuple[GroupSpec, ...]
    give_up: Literal["never", "all-broken"] = "never"
    """``all-broken``: the service ends with ``GIVE_UP_CODE`` if every slot of every group is broken."""
    shutdown_delay: float = 0.0
    """Seconds for which a service that shuts down reports that it is not ready, and still serves."""

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object; ``from_json`` reads it."""
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
