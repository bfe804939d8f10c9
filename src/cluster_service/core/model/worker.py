"""State of workers and slots.

``TRANSITIONS`` defines the states of a worker; the diagram in the documentation is drawn from it. The engine calls
``can`` before ``move``, so an event without an entry in the table is a bug in the core.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

TRANSITIONS: dict[str, dict[str, str]] = {
    # The start has been ordered; nothing has been reported yet.
    "ordered": {"spawned": "starting", "spawn_failed": "gone", "exited": "gone", "lost": "gone"},
    # The process exists and does not serve yet.
    "starting": {"ready": "serving", "stop": "stopping", "exited": "gone", "lost": "gone"},
    "serving": {"stop": "draining", "exited": "gone", "lost": "gone"},
    # It served and was asked to exit: it finishes the requests in progress.
    "draining": {"kill": "killing", "exited": "gone", "lost": "gone"},
    # It was asked to exit before it ever served.
    "stopping": {"kill": "killing", "exited": "gone", "lost": "gone"},
    # Its announced deadline has passed: it was sent SIGKILL.
    "killing": {"exited": "gone", "lost": "gone"},
    "gone": {},
}

STAYING = frozenset({"ordered", "starting", "serving"})
"""States of a worker that has not been asked to exit."""

LEAVING = frozenset({"draining", "stopping", "killing"})

PUBLIC_STATES = {"ordered": "starting", "killing": "stopping"}
"""State -> its name in the public interface, where that differs."""


@dataclass
class Worker:
    """Observed state of one worker. Times are monotonic seconds."""

    number: int
    group: str
    slot: int
    generation: int
    reason: str
    since: float
    """When its start was ordered; from the spawn on, when it was spawned."""
    state: str = "ordered"
    pid: int | None = None
    deadline: float | None = None
    """When it must be ready (starting), is killed (draining, stopping), or must have sent its last lines (gone)."""
    ready_timeout: float = 60.0
    ready_at: float | None = None
    told: bool | None = None
    notified: bool = False
    status: str = ""
    """The last STATUS that it sent by sd_notify."""
    listening: list[str] = field(default_factory=list)
    bound: list[str] = field(default_factory=list)
    """Addresses that it bound while they already listened; it may never call listen itself."""
    bind_error: str = ""
    stop_by: float | None = None
    """When it is killed at the latest, however often it extends its deadline; None: it was not asked to exit."""
    overdue: bool = False
    """True if a warning was logged that it asked for more time to exit than it gets."""
    stop_reason: str = ""
    """Why it was asked to exit; empty if it was not."""
    stop_timeout: float | None = None
    """Stop timeout of the command that stops it, in seconds; None: as configured for the group."""
    failed: bool = False
    """True if its exit, or that it did not become ready, has been counted as a failure."""
    elsewhere: str = ""
    """If it is ready but listens on other ports than expected, a sentence that says so; else empty."""
    elsewhere_by: float | None = None
    """When it fails because of that; None: at its deadline."""
    verdict: str = ""
    """Why the core stopped it, as a sentence; empty if it exited on its own."""
    stacks: list[str] = field(default_factory=list)
    """Its stacks when it hung, in lines; shown instead of its last output."""
    code: int | None = None
    signal: int | None = None
    died_at: float | None = None
    left: int = 0
    """Number of processes that it left when it exited; 0 once all have ended."""
    sweep_by: float | None = None
    """When these processes are sent SIGKILL."""
    background: int = 0
    """Pid of one of them that had left the process group; 0: none."""
    output: list[str] | None = None
    """Its last lines; None until they have arrived."""
    buried: bool = False
    """True if its exit has been reported; the record is kept until the processes that it left have ended."""
    beat: int = 0
    """Its last heartbeat value; 0: it sends none."""
    watchdog: int = 0
    """Number of WATCHDOG=1 messages; from the first on, they are its heartbeat."""
    still: float = 0.0
    """Seconds without observed progress."""
    extended: float = 0.0
    """Time until which it asked not to be checked."""
    memory: int = 0
    memory_at_first: int = 0
    """Bytes in use now, and when first measured while it served; 0: not measured."""
    missed: int = 0
    """Number of failed health checks in a row."""
    retire: str = ""
    """Why it is replaced although its generation is current: hang or recycle; else empty."""
    requests: int = 0
    errors: int = 0
    """Number of responses, and of server errors (5xx) among them."""

    def can(self, event: str) -> bool:
        """Return whether the table has an entry for *event* in the current state."""
        return event in TRANSITIONS[self.state]

    def move(self, event: str) -> None:
        """Enter the next state by the table. Raises KeyError if *event* has no entry there."""
        self.state = TRANSITIONS[self.state][event]

    def was_never_asked(self) -> None:
        """Return to the state before the stop: the master died before it sent the stop signal.

        The reason may no longer apply (its successor may have exited, its deadline passed), so it is decided again.
        """
        self.state = "starting" if self.ready_at is None else "serving"
        self.deadline = self.since + self.ready_timeout if self.ready_at is None else None
        self.stop_reason, self.stop_by = "", None

    @property
    def name(self) -> str:
        """Return ``web.1``."""
        return f"{self.group}.{self.slot}"

    @property
    def addresses(self) -> list[str]:
        """Return the shared addresses that it uses."""
        return [*self.listening, *(address for address in self.bound if address not in self.listening)]

    @property
    def may_be_background(self) -> bool:
        """True if it may have daemonized: it exited with code 0 on its own and left processes."""
        return bool(self.left or self.background) and self.code == 0 and not self.stop_reason

    def is_of(self, generation: int) -> bool:
        """Return whether it is of *generation* and need not be replaced."""
        return self.generation == generation and not self.retire

    @property
    def staying(self) -> bool:
        """True if it has, or will have, a process that has not been asked to exit."""
        return self.state in STAYING

    @property
    def serving(self) -> bool:
        """True if it is ready and has not been asked to exit."""
        return self.state == "serving"

    @property
    def booting(self) -> bool:
        """True if it has not served yet and has not been asked to exit."""
        return self.state in ("ordered", "starting")

    @property
    def public_state(self) -> str:
        """Return the name of the state in the public interface."""
        return PUBLIC_STATES.get(self.state, self.state)

    def __repr__(self) -> str:
        return f"<Worker {self.number} {self.name} pid {self.pid} generation {self.generation} {self.state}>"


PERIOD_SECONDS = 60.0
STEADY_SECONDS = 10.0


@dataclass(frozen=True)
class History:
    """Recent failures of one slot."""

    streak: int = 0
    """Failures since a worker last served for ``STEADY_SECONDS``."""
    failures: tuple[float, ...] = ()
    """Times of the failures in the last ``PERIOD_SECONDS``, oldest first."""
    broken: bool = False
    """True if the slot was broken and has not been steady since."""

    def failed(self, now: float) -> History:
        """Return the history with one more failure."""
        recent = tuple(at for at in self.failures if at > now - PERIOD_SECONDS)
        return History(self.streak + 1, (*recent, now), self.broken)

    def steady(self) -> History:
        """Return the history after a worker served for ``STEADY_SECONDS``: back-off restarts, the failures remain."""
        return History(0, self.failures)


@dataclass
class Slot:
    """Desired state of one slot, and its history."""

    number: int
    generation: int
    reason: str = "start"
    """The reason for its next start."""
    timeout: float | None = None
    """Timeout of the command for each start and stop, in seconds; None: as configured."""
    history: History = field(default_factory=History)
    next_try: float | None = 0.0
    """When it may be started; None: not automatically."""
    broken: bool = False
    restarts: int = 0
    hold: bool = False
    """True if its new worker is a canary: the old worker keeps running."""
    ports: list[str] = field(default_factory=list)
    """Addresses of the last worker that served here, while none serves."""
    listened: bool = False
    """True if a worker of this slot has listened on a port."""
    last_exit: dict[str, Any] | None = None
    """``{"pid", "exit_code", "signal", "was_ready", "detail", "output"}`` of the last worker that failed here."""

    def renew(self, generation: int, reason: str, timeout: float | None) -> None:
        """Set the desired *generation* and clear the failures, so that it is started at once."""
        self.generation, self.reason, self.timeout = generation, reason, timeout
        self.history, self.next_try, self.broken = History(), 0.0, False


@dataclass
class Trial:
    """Attempts to start a generation of which no worker has become ready yet."""

    generation: int = 0
    history: History = field(default_factory=History)
    next_try: float | None = 0.0
    failed_at: float = 0.0
