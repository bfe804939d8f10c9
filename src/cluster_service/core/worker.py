"""The life of a worker: one table, and a record of what has been seen of one.

Everything that affects a worker's state is in ``TRANSITIONS``; the diagram in the documentation is drawn from it. An
event that the table does not name for a state is a mistake in the core, never in the outside world: the cluster
asks ``can`` before it moves a worker.
"""

from __future__ import annotations

from dataclasses import dataclass, field

TRANSITIONS: dict[str, dict[str, str]] = {
    # The order to start it has been given, nothing has been heard yet.
    "ordered": {"spawned": "starting", "spawn_failed": "gone", "exited": "gone", "lost": "gone"},
    # There is a process; it does not serve yet.
    "starting": {"ready": "serving", "stop": "stopping", "exited": "gone", "lost": "gone"},
    "serving": {"stop": "draining", "exited": "gone", "lost": "gone"},
    # It was serving and was asked to end: it finishes what it holds.
    "draining": {"kill": "killing", "exited": "gone", "lost": "gone"},
    # It was asked to end before it ever served.
    "stopping": {"kill": "killing", "exited": "gone", "lost": "gone"},
    # Its announced time was over: it was sent SIGKILL.
    "killing": {"exited": "gone", "lost": "gone"},
    "gone": {},
}

STAYING = frozenset({"ordered", "starting", "serving"})
"""States of a worker that nobody has asked to end."""

LEAVING = frozenset({"draining", "stopping", "killing"})

PUBLIC = {"ordered": "starting", "killing": "stopping"}
"""States that have another name in the public interface."""


@dataclass
class Worker:
    """What has been seen of one worker. Times are monotonic seconds."""

    number: int
    group: str
    slot: int
    generation: int
    reason: str
    since: float
    """When it was ordered, then when it was spawned."""
    state: str = "ordered"
    pid: int | None = None
    deadline: float | None = None
    """When it must be ready (starting), will be killed (draining, stopping), or its last lines are due (gone)."""
    ready_timeout: float = 60.0
    ready_at: float | None = None
    told: bool | None = None
    notified: bool = False
    status: str = ""
    """The STATUS it last gave by sd_notify."""
    listening: list[str] = field(default_factory=list)
    bound: list[str] = field(default_factory=list)
    """Addresses that it has bound while they listened already: it may never call listen itself."""
    bind_error: str = ""
    stop_by: float | None = None
    """When it is killed at the latest, however often it asks for more time to end; None: it was not asked to end."""
    overdue: bool = False
    """It was reported that it asked for more time than it may have to end."""
    stop_reason: str = ""
    """Why it was asked to end; empty when nobody asked."""
    stop_timeout: float | None = None
    """Seconds, where an operator gave another time than the group's."""
    failed: bool = False
    """Its end, or its failure to become ready, has been counted against its slot."""
    elsewhere: str = ""
    """It is ready, and this sentence says where it listens instead of where it should; empty when it does."""
    elsewhere_by: float | None = None
    """When it is given up for that; None: at its deadline."""
    verdict: str = ""
    """Why we gave up on it, in one sentence; empty when it ended by itself."""
    stacks: list[str] = field(default_factory=list)
    """What it was doing when it hung, in lines: the last words of one that says nothing."""
    code: int | None = None
    signal: int | None = None
    died_at: float | None = None
    left: int = 0
    """Processes that it left when it exited, until all of them have ended."""
    sweep_by: float | None = None
    """When those are sent SIGKILL."""
    background: int = 0
    """The pid of one of them that had left its process group; 0: none."""
    output: list[str] | None = None
    """Its last lines, once they have come."""
    buried: bool = False
    """Its end has been reported; it is kept until what it left has ended."""
    beat: int = 0
    """What its loop last said of itself; 0: it gives no beat."""
    watchdog: int = 0
    """How often it said WATCHDOG=1. Once it has, that is its beat."""
    still: float = 0.0
    """Seconds for which it has been seen to give no sign of life."""
    extended: float = 0.0
    """Until when it has asked for more time."""
    memory: int = 0
    memory_at_first: int = 0
    """Bytes that it uses, and used when it was first looked at as it served; 0: nobody has looked."""
    missed: int = 0
    """How many of its active checks in a row have gone wrong."""
    retire: str = ""
    """Why it is to be replaced though it is what its slot wants: hang or recycle."""
    requests: int = 0
    errors: int = 0
    """Answers that it has given, and server errors (5xx) among them."""

    def can(self, event: str) -> bool:
        """Whether *event* may happen to it now."""
        return event in TRANSITIONS[self.state]

    def move(self, event: str) -> None:
        """Enter the state that the table names. Raises KeyError where it names none."""
        self.state = TRANSITIONS[self.state][event]

    def was_never_asked(self) -> None:
        """Go back to before it was asked to end: that was decided, but the master died before it said so.

        What was true then need not be now (its successor may be gone, its announced time is over): it is decided anew.
        """
        self.state = "starting" if self.ready_at is None else "serving"
        self.deadline = self.since + self.ready_timeout if self.ready_at is None else None
        self.stop_reason, self.stop_by = "", None

    @property
    def name(self) -> str:
        """``web.1``."""
        return f"{self.group}.{self.slot}"

    @property
    def addresses(self) -> list[str]:
        """The shared addresses that it uses."""
        return [*self.listening, *(address for address in self.bound if address not in self.listening)]

    @property
    def may_be_background(self) -> bool:
        """It may have put itself into the background: it exited with code 0, unasked, and left something."""
        return bool(self.left or self.background) and self.code == 0 and not self.stop_reason

    def is_of(self, generation: int) -> bool:
        """It is what a slot that wants *generation* wants, or is about to be."""
        return self.generation == generation and not self.retire

    @property
    def staying(self) -> bool:
        """There is, or is about to be, a process that nobody has asked to end."""
        return self.state in STAYING

    @property
    def serving(self) -> bool:
        """It is ready and has not been asked to end."""
        return self.state == "serving"

    @property
    def booting(self) -> bool:
        """It is on its way to serve for the first time."""
        return self.state in ("ordered", "starting")

    @property
    def public_state(self) -> str:
        """The state's name in the public interface."""
        return PUBLIC.get(self.state, self.state)

    def __repr__(self) -> str:
        return f"<Worker {self.number} {self.name} pid {self.pid} generation {self.generation} {self.state}>"


