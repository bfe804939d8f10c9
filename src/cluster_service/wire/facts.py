"""Facts: messages from the guardian to the master. Each reports something that has happened; none can be refused."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Dict, List, Optional

from .framing import Family, Record


@dataclass(frozen=True, eq=False, repr=False)
class WorkerState(Record):
    """One worker in a snapshot: everything that the guardian knows about it."""

    worker: int
    pid: int
    meta: Dict[str, Any] = field(default_factory=dict)
    started_at: float = 0.0
    """time.monotonic() of the guardian at the fork. The clock is system-wide and comparable between processes."""
    ready: Optional[bool] = None
    """The readiness that the worker last reported on its channel; None: not reported."""
    notified: Dict[str, str] = field(default_factory=dict)
    """The latest sd_notify fields, by name."""
    listening: List[str] = field(default_factory=list)
    bound: List[str] = field(default_factory=list)
    """Addresses that it has bound whose sockets were already listening."""
    signals: List[str] = field(default_factory=list)
    """Order names of the signals that were sent to it."""
    exited: bool = False
    code: Optional[int] = None
    signal: Optional[int] = None
    output: List[str] = field(default_factory=list)
    """Its last lines, once it has exited and the log writer has reported them."""
    bind_error: str = ""
    """The error of the last failed bind ("port 8000 is held by pid 71 (nginx)")."""
    private: Dict[str, str] = field(default_factory=dict)
    """For a private worker: requested address -> private address, for listening sockets."""

    left: int = 0
    """How many processes it left when it exited, as long as any of them lives."""
    background: int = 0
    """As in ``Swept``."""

    @classmethod
    def from_json(cls, state: Dict[str, Any]) -> WorkerState:
        """Return the record for *state*, one of ``Snapshot.workers``. Unknown fields are ignored."""
        known = {each.name for each in fields(cls)}
        return cls(**{key: value for key, value in state.items() if key in known})


@dataclass(frozen=True, eq=False, repr=False)
class Snapshot(Record):
    """The answer to ``Hello``: the complete state."""

    version: int
    guardian_pid: int
    started_at: float
    workers: List[Dict[str, Any]]
    """``WorkerState`` objects, oldest first, including exited ones that were not forgotten."""
    listeners: List[Dict[str, Any]]
    """``{"address", "door", "listening", "problem"}`` of each socket held; *problem* as in ``ListenerState``."""
    notebook: str
    last_worker: int
    """The highest worker number spawned so far; 0 if none was."""
    master_starts: int
    """1 for the first master of this guardian, and so on."""
    safe: bool = False
    stopping: bool = False
    """A signal has requested a shutdown."""
    share: Dict[str, str] = field(default_factory=dict)
    """Mode -> "" if it is usable here, else the reason why not: ``{"seccomp": "", "python": "", ...}``."""


@dataclass(frozen=True, eq=False, repr=False)
class Spawned(Record):
    """The worker was forked, and its program executed."""

    worker: int
    pid: int
    at: float = 0.0


@dataclass(frozen=True, eq=False, repr=False)
class Monitoring(Record):
    """How the master observes a worker. Follows ``Spawned`` and, for each living worker, ``Snapshot``.

    If *inode* is not 0 there is a board (``wire.worker_protocol``), and its descriptor accompanies the fact if it could
    be sent.
    """

    worker: int
    uid: int
    """The user as whom the worker was started."""
    descriptor: bool = False
    """A descriptor of the board accompanies this fact."""
    inode: int = 0
    """The inode number of the board, which identifies that descriptor; 0: there is no board."""
    check: str = ""
    """The address opened by the guardian for its health checks; empty: none."""


@dataclass(frozen=True, eq=False, repr=False)
class OutputInspected(Record):
    """The answer to ``InspectOutput``."""

    worker: int
    blocked: bool
    """True if a process that writes to the worker's standard output or error may block until it is read."""


@dataclass(frozen=True, eq=False, repr=False)
class SpawnFailed(Record):
    """The process was not started: fork failed, the program or directory does not exist, or the user is unknown."""

    worker: int
    error: str


@dataclass(frozen=True, eq=False, repr=False)
class Exited(Record):
    """The process of the worker has exited and was reaped. Exactly one of *code* and *signal* is set."""

    worker: int
    code: Optional[int] = None
    signal: Optional[int] = None
    left: int = 0
    """How many processes that it started are left. If there are any, ``Swept`` follows the order ``sweep``."""


@dataclass(frozen=True, eq=False, repr=False)
class Swept(Record):
    """Every process that an exited worker left has ended. Follows ``Exited`` with *left*."""

    worker: int
    background: int = 0
    """The pid of one that had left the worker's process group; 0: none was seen."""


@dataclass(frozen=True, eq=False, repr=False)
class Output(Record):
    """The last lines written by an exited worker (at most 40, of at most 500 characters). Follows ``Exited``."""

    worker: int
    lines: List[str]


@dataclass(frozen=True, eq=False, repr=False)
class Listening(Record):
    """*worker* listens on *address*; with worker None, the ``Listen`` order was executed."""

    address: str
    worker: Optional[int] = None
    descriptor: bool = False
    """A descriptor of the socket accompanies this fact (service endpoints)."""
    inode: int = 0
    """The inode number of the socket, which identifies that descriptor; 0: unknown."""
    bound: bool = False
    """It has only bound the address so far, whose shared socket is already listening. It may never call listen
    (gunicorn checks SO_ACCEPTCONN first), but it may also be far from ready.
    """
    asked: str = ""
    """For a private worker: the address that it requested; *address* is then its private address."""


@dataclass(frozen=True, eq=False, repr=False)
class Released(Record):
    """The guardian has closed the socket of *address*: no process of the worker that bound it has it open."""

    address: str


@dataclass(frozen=True, eq=False, repr=False)
class ListenerState(Record):
    """A shared socket no longer accepts connections, or does again."""

    address: str
    problem: str = ""
    """Why it does not, as a sentence; empty: it does."""
    revived: bool = False
    """A process had shut it down, and it listens again."""


@dataclass(frozen=True, eq=False, repr=False)
class Unlistened(Record):
    """*worker* no longer has the listening socket of *address*, which others have: a process had shut it down."""

    worker: int
    address: str


@dataclass(frozen=True, eq=False, repr=False)
class ListenFailed(Record):
    """A ``Listen`` order (worker None) or the bind of a worker failed."""

    address: str
    error: str
    """The error: "127.0.0.1:8000 is taken: pid 71 (nginx) listens there"."""
    worker: Optional[int] = None


@dataclass(frozen=True, eq=False, repr=False)
class Ready(Record):
    """The worker reported on its channel that it is ready, or (False) not ready yet."""

    worker: int
    ready: bool = True


@dataclass(frozen=True, eq=False, repr=False)
class Notified(Record):
    """An sd_notify datagram of the worker: its fields by name (READY, STATUS, STOPPING, WATCHDOG ...)."""

    worker: int
    fields: Dict[str, str]


@dataclass(frozen=True, eq=False, repr=False)
class Message(Record):
    """Any other message of the worker on its channel."""

    worker: int
    message: Dict[str, Any]


@dataclass(frozen=True, eq=False, repr=False)
class Signalled(Record):
    """The guardian received a signal that the master must handle: TERM, INT, HUP."""

    signal: str


@dataclass(frozen=True, eq=False, repr=False)
class Refused(Record):
    """An order was not executed, and why: a duplicate, an unknown worker, or an invalid message."""

    order: str
    why: str
    worker: Optional[int] = None


@dataclass(frozen=True, eq=False, repr=False)
class Ping(Record):
    """Requests a ``Pong``; a master that does not answer is considered hung."""


FACTS: Family[Any] = Family(
    Snapshot,
    Spawned,
    Monitoring,
    OutputInspected,
    SpawnFailed,
    Exited,
    Swept,
    Output,
    Listening,
    Released,
    ListenerState,
    Unlistened,
    ListenFailed,
    Ready,
    Notified,
    Message,
    Signalled,
    Refused,
    Ping,
)
