"""Facts: what the guardian says to the master. Each is about something that has happened and cannot be refused."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Dict, List, Optional

from .records import Family


@dataclass(frozen=True)
class WorkerState:
    """One worker in a snapshot: everything the guardian knows of it."""

    worker: int
    pid: int
    meta: Dict[str, Any] = field(default_factory=dict)
    started_at: float = 0.0
    """time.monotonic() of the guardian at the fork; the clock is the machine's, so it compares across processes."""
    ready: Optional[bool] = None
    """What the worker itself last said on its channel; None: nothing."""
    notified: Dict[str, str] = field(default_factory=dict)
    """The sd_notify fields last received, by name."""
    listening: List[str] = field(default_factory=list)
    bound: List[str] = field(default_factory=list)
    """Addresses that it has bound, and that listened already."""
    signals: List[str] = field(default_factory=list)
    """Order names of the signals that it was sent."""
    exited: bool = False
    code: Optional[int] = None
    signal: Optional[int] = None
    output: List[str] = field(default_factory=list)
    """Its last lines, once it has exited and the log writer has told."""
    bind_error: str = ""
    """The sentence of the last bind that failed ("port 8000 is held by pid 71 (nginx)")."""
    private: Dict[str, str] = field(default_factory=dict)
    """Of a private worker: what it asked for -> the private address, for those that listen."""

    left: int = 0
    """How many processes it left when it exited, as long as any of them lives."""
    background: int = 0
    """As in ``Swept``."""

    @classmethod
    def from_json(cls, state: Dict[str, Any]) -> WorkerState:
        """Return the record that *state*, one of ``Snapshot.workers``, is. Fields that are not known are ignored."""
        known = {each.name for each in fields(cls)}
        return cls(**{key: value for key, value in state.items() if key in known})


@dataclass(frozen=True)
class Snapshot:
    """The answer to ``Hello``: the whole truth."""

    version: int
    guardian_pid: int
    started_at: float
    workers: List[Dict[str, Any]]
    """``WorkerState`` as objects, oldest first, exited ones that were not forgotten among them."""
    listeners: List[Dict[str, Any]]
    """``{"address", "door", "listening", "problem"}`` of each socket held; *problem* as in ``ListenerState``."""
    notebook: str
    last_worker: int
    """The highest worker number ever spawned; 0 when none was."""
    master_starts: int
    """1 for the first master of this guardian, and so on."""
    safe: bool = False
    stopping: bool = False
    """A shutdown has been asked for by a signal."""
    share: Dict[str, str] = field(default_factory=dict)
    """Mode -> "" when it can be used here, else the reason why not: ``{"seccomp": "", "python": "", ...}``."""


@dataclass(frozen=True)
class Spawned:
    """The worker has been forked and its program executed."""

    worker: int
    pid: int
    at: float = 0.0


@dataclass(frozen=True)
class Monitoring:
    """How the master observes a worker. Follows ``Spawned`` and, for each living worker, ``Snapshot``.

    Where *inode* is not 0 there is a board (``wire.board``), and a descriptor of it comes along if it could be sent.
    """

    worker: int
    uid: int
    """As whom the worker was started."""
    descriptor: bool = False
    """A descriptor of the board comes with this fact."""
    inode: int = 0
    """The board's inode number, by which that descriptor is recognised; 0: there is none."""
    check: str = ""
    """The address that the guardian opened for its health checks; empty: none."""


@dataclass(frozen=True)
class OutputInspected:
    """The answer to ``InspectOutput``."""

    worker: int
    blocked: bool
    """Whether a process that writes to the worker's standard output or error may have to wait until it is read."""


@dataclass(frozen=True)
class SpawnFailed:
    """There is no process: fork was refused, the program or directory does not exist, the user is unknown."""

    worker: int
    error: str


@dataclass(frozen=True)
class Exited:
    """The worker's process has ended and was reaped. Exactly one of *code* and *signal* is set."""

    worker: int
    code: Optional[int] = None
    signal: Optional[int] = None
    left: int = 0
    """How many processes that it started are left. If there are any, ``Swept`` follows the order ``sweep``."""


@dataclass(frozen=True)
class Swept:
    """Every process that an exited worker left has ended. Follows ``Exited`` with *left*."""

    worker: int
    background: int = 0
    """The pid of one that had left the worker's process group; 0: none was seen."""


@dataclass(frozen=True)
class Output:
    """The last lines that an exited worker wrote (at most 40, of at most 500 characters). Follows ``Exited``."""

    worker: int
    lines: List[str]


@dataclass(frozen=True)
class Listening:
    """*worker* listens on *address* (or, with worker None, the ``Listen`` order has been carried out)."""

    address: str
    worker: Optional[int] = None
    descriptor: bool = False
    """A descriptor of the socket comes with this fact (doors)."""
    inode: int = 0
    """The socket's inode number, by which that descriptor is recognised; 0: not known."""
    bound: bool = False
    """It has only bound the address so far. The socket listens already, for others: it may never call listen (gunicorn
    asks SO_ACCEPTCONN first), but it may also be far from ready."""
    asked: str = ""
    """Of a private worker's socket: the address that the worker wanted; *address* is then the private one, where it is
    reached."""


@dataclass(frozen=True)
class Released:
    """The guardian has closed the socket of *address*: the worker that bound it has closed it, among many."""

    address: str


@dataclass(frozen=True)
class ListenerState:
    """A shared socket no longer accepts connections, or does again."""

    address: str
    problem: str = ""
    """Why it does not, as a sentence; empty: it does."""


@dataclass(frozen=True)
class Unlistened:
    """*worker* no longer has the listening socket of *address*, which others have: a process had shut it down."""

    worker: int
    address: str


@dataclass(frozen=True)
class ListenFailed:
    """A ``Listen`` order (worker None) or a worker's bind failed."""

    address: str
    error: str
    """A sentence: "127.0.0.1:8000 is taken: pid 71 (nginx) listens there"."""
    worker: Optional[int] = None


@dataclass(frozen=True)
class Ready:
    """The worker said on its channel that it is ready, or (False) not yet."""

    worker: int
    ready: bool = True


@dataclass(frozen=True)
class Notified:
    """An sd_notify datagram of the worker: its fields by name (READY, STATUS, STOPPING, WATCHDOG ...)."""

    worker: int
    fields: Dict[str, str]


@dataclass(frozen=True)
class Message:
    """Anything else that the worker said on its channel."""

    worker: int
    message: Dict[str, Any]


@dataclass(frozen=True)
class Signalled:
    """The guardian was sent a signal that is the master's to act on: TERM, INT, HUP."""

    signal: str


@dataclass(frozen=True)
class Refused:
    """An order that was not carried out, and why: a duplicate, an unknown worker, a bad message."""

    order: str
    why: str
    worker: Optional[int] = None


@dataclass(frozen=True)
class Ping:
    """Answer with ``Pong``, or be taken for hung."""


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
