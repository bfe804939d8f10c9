"""What the guardian holds for the service. Everything a new master must know is here, and ``snapshot`` tells it.

A worker that has exited is kept until the master says that its exit is in the notebook. A socket is held until the
master closes it, however many workers come and go. Nothing here does any I/O.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cluster_service.wire.facts import Snapshot, WorkerState
from cluster_service.wire.orders import Status

from .known import SIGNAL_BITS, Known, Numbers

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator
    from socket import socket as Socket  # noqa: N812 - Held has an attribute of that name

    from cluster_service.wire.addresses import Address

    from .paths import Kept
    from .slots import Slots


SWEEP_AT = 16
"""Sockets that one worker has alone, from which on those are looked for that it has closed."""
SOCKETS_LIMIT = 64
"""Sockets in use that one worker may have shared; what it binds beyond is left to the kernel."""

OPEN_BURST, OPENS_PER_SECOND = 256.0, 10.0
"""Sockets that may be opened for one worker at once, and a second from then on. Each is told to the master, which would
have no time for anything else.
"""


@dataclass(eq=False, repr=False)
class Worker:
    """One worker's process, its descriptors, and what is known of it."""

    number: int
    label: str
    pid: int = 0
    meta: dict[str, Any] = field(default_factory=dict)
    started_at: float = 0.0
    uid: int = 0
    share: str = "none"
    channel: socket.socket | None = None
    notify: socket.socket | None = None
    notify_name: str = ""
    """As NOTIFY_SOCKET has it."""
    ports: socket.socket | None = None
    launched: bool = False
    """Whether its program has been executed, and the master been told."""
    ready: bool | None = None
    notified: dict[str, str] = field(default_factory=dict)
    listening: list[str] = field(default_factory=list)
    bound: list[str] = field(default_factory=list)
    signals: list[str] = field(default_factory=list)
    stop_signal: int = signal.SIGTERM
    """What asks it to end."""
    mark: int = 0
    """What all of its descendants inherit (``remains``)."""
    killed: bool = False
    """The guardian has sent it SIGKILL."""
    stopped: bool = False
    """The guardian itself has asked it to end."""
    left: int = 0
    """Processes that it left when it exited, until they have ended."""
    background: int = 0
    """The pid of one of them that had left the worker's process group; 0: none was seen."""
    exited: bool = False
    code: int | None = None
    signal: int | None = None
    output: list[str] | None = None
    """None until the log writer has told, or did not tell in time."""
    bind_error: str = ""
    board: int = -1
    """A descriptor of its board (``wire.board``); -1: it has none."""
    check: socket.socket | None = None
    """Where the master checks it: our copy keeps the address from being bound by another process."""
    check_address: str = ""
    is_private: bool = False
    """It gets sockets of its own, which nobody else knows."""
    tenant: str = ""
    """The group of workers that it is of: sockets are shared within a group."""
    binds: frozenset[str] = frozenset()
    """Addresses that the configuration gives to its group."""
    unshared: bool = False
    """Its binds are left to the kernel: it has made the helper wait."""
    waited: float = 0.0
    """Seconds for which the helper was slow for it."""
    sweep_at: int = SWEEP_AT
    """How many sockets it has alone when those are looked for that it has closed."""
    churns: bool = False
    """It has closed many sockets again: new ones are reported once they have lasted."""
    full: bool = False
    """It was reported that it uses too many sockets."""
    opens_left: float = OPEN_BURST
    """Sockets that may be opened for it, as of ``opens_at``."""
    opens_at: float = 0.0
    fast: bool = False
    """It was reported that it binds too many addresses a second."""
    private: dict[str, str] = field(default_factory=dict)
    """What it asked for -> the address of its own socket, for those that listen."""
    per_slot: bool = False
    """Its addresses get a socket for each worker, where that is possible (``slots``)."""
    drain: float = 0.0
    """Seconds for which its stop signal may wait until its connections are finished."""
    leaving: bool = False
    """It was asked to stop: it gets no new connections where others do."""

    def __str__(self) -> str:
        return f"{self.label} (pid {self.pid})"

    def __repr__(self) -> str:
        state = "exited" if self.exited else "running" if self.launched else "launching"
        return f"<Worker {self.number} {self.label} pid {self.pid}: {state}>"

    def may_open(self, now: float) -> bool:
        """Return whether another socket may be opened for the worker at *now* (monotonic seconds), and charge it."""
        self.opens_left = min(OPEN_BURST, self.opens_left + max(0.0, now - self.opens_at) * OPENS_PER_SECOND)
        self.opens_at = now
        if self.opens_left < 1.0:
            return False
        self.opens_left -= 1.0
        return True

    def state(self) -> dict[str, Any]:
        """Return the worker's part of a snapshot."""
        state = WorkerState(
            worker=self.number,
            pid=self.pid,
            meta=self.meta,
            started_at=self.started_at,
            ready=self.ready,
            notified=self.notified,
            listening=self.listening,
            bound=self.bound,
            signals=self.signals,
            exited=self.exited,
            code=self.code,
            signal=self.signal,
            output=self.output or [],
            bind_error=self.bind_error,
            private=self.private,
            left=self.left,
            background=self.background,
        )
        return dict(vars(state))


@dataclass(eq=False, repr=False)
class Held:
    """One socket that is held, whoever uses it."""

    address: Address
    key: str
    """The address as text, its directory without symlinks: what makes two addresses the same."""
    socket: socket.socket
    inode: int
    """The socket's own inode number, by which a worker's descriptor is known to be of it."""
    door: bool = False
    declared: bool = False
    """Whether the master asked for it; otherwise a worker's bind did."""
    listening: bool = False
    backlog: int = 0
    """What listen(2) was called with; 0: not by us."""
    problem: str = ""
    """Why it does not accept connections though it should, as a sentence; empty while it does."""
    users: set[int] = field(default_factory=set)
    """Numbers of the living workers that were given it."""
    kept: Kept | None = None
    """The file of a Unix socket."""
    asked: str = ""
    """Of a socket that is one worker's own: the address that it wanted; *address* is where the socket really is."""
    tenant: str | None = None
    """The group whose worker has bound it first, or for which the configuration names it; None: of no group yet."""
    uid: int | None = None
    """As whom it was bound; None: as the owner of the service, for whichever user *tenant* has."""
    quiet: bool = False
    """The master does not know of it yet: its worker ``churns``."""
    given: str | None = None
    """The name under which a service manager passed it to us; it holds the socket too, and the file is its own."""
    slots: Slots | None = None
    """The sockets of an address of which each worker has its own; *socket* and *inode* are those of the first."""

    @property
    def inodes(self) -> set[int]:
        """The inode numbers of all its sockets."""
        return {self.inode} if self.slots is None else {member.inode for member in self.slots.members}

    @property
    def sockets(self) -> list[Socket]:
        """All its sockets."""
        return [self.socket] if self.slots is None else [member.socket for member in self.slots.members]

    def __repr__(self) -> str:
        return f"<Held {self.address}: {'listening' if self.listening else 'bound'}, {len(self.users)} users>"


class Holdings:
    """Workers, sockets and the notebook."""

    def __init__(self, guardian_pid: int, started_at: float) -> None:
        self.known = Known(Numbers(), Numbers(), Numbers())
        """What the cleaner is to know of them."""
        self.guardian_pid = guardian_pid
        self.started_at = started_at
        self.workers: dict[int, Worker] = {}
        self.by_pid: dict[int, Worker] = {}
        """Workers whose process has not been reaped."""
        self.held: dict[str, Held] = {}
        self.by_inode: dict[int, Held] = {}
        self.notebook = ""
        self.last_worker = 0
        self.master_starts = 0
        self.safe = False
        self.status = Status("starting", "starting")
        """What a master last said of the whole."""
        self.hangups = 0
        """How many SIGHUPs this master was told of."""
        self.stopping = False
        self.share: dict[str, str] = {}
        self.partners: dict[str, frozenset[str]] = {}
        """Group of workers -> those with which it shares sockets, as its latest worker was started with."""

    def __repr__(self) -> str:
        return f"<Holdings: {len(self.by_pid)} of {len(self.workers)} workers alive, {len(self.held)} sockets>"

    def add_worker(self, worker: Worker) -> None:
        """A process was forked."""
        self.workers[worker.number] = worker
        self.by_pid[worker.pid] = worker
        self.known.groups.add(worker.pid)
        if worker.stop_signal != signal.SIGTERM:
            self.known.stop_signals.add(worker.pid << SIGNAL_BITS | worker.stop_signal)

    def forget_worker(self, worker: Worker) -> None:
        """Nothing of it needs to be known any more."""
        self.by_pid.pop(worker.pid, None)
        self.workers.pop(worker.number, None)
        if worker.pid not in self.by_pid:
            self.known.groups.discard(worker.pid)
            self.known.stop_signals.discard(worker.pid << SIGNAL_BITS | worker.stop_signal)

    def alive(self) -> Iterator[Worker]:
        """The workers whose process has not been reaped."""
        return iter(list(self.by_pid.values()))

    def add_held(self, held: Held) -> None:
        """A socket was opened."""
        self.held[held.key] = held
        self.by_inode[held.inode] = held
        if held.given is None:  # one that was passed to us is also held by who passed it
            self.known.sockets.add(held.inode)

    def add_inode(self, held: Held, inode: int) -> None:
        """A further socket of *held* was opened."""
        self.by_inode[inode] = held
        self.known.sockets.add(inode)

    def drop_inode(self, held: Held, inode: int) -> None:
        """A socket of *held* is about to be closed."""
        if self.by_inode.get(inode) is held:
            del self.by_inode[inode]
        self.known.sockets.discard(inode)

    def drop_held(self, held: Held) -> None:
        """A socket is about to be closed."""
        self.held.pop(held.key, None)
        for inode in held.inodes:
            self.drop_inode(held, inode)
        for worker in self.workers.values():
            for addresses in () if worker.exited else (worker.listening, worker.bound):
                if str(held.address) in addresses:
                    addresses.remove(str(held.address))

    def at(self, address: str) -> Held | None:
        """Return the shared socket whose address is the text *address*."""
        return next((held for held in self.held.values() if not held.asked and str(held.address) == address), None)

    def snapshot(self, version: int) -> Snapshot:
        """Return the whole truth."""
        return Snapshot(
            version=version,
            guardian_pid=self.guardian_pid,
            started_at=self.started_at,
            workers=[self.workers[number].state() for number in sorted(self.workers)],
            listeners=[
                {
                    "address": str(held.address),
                    "door": held.door,
                    "listening": held.listening,
                    "problem": held.problem,
                }
                for held in self.held.values()
                if not held.asked and not held.quiet and (held.given is None or held.users)
            ],
            notebook=self.notebook,
            last_worker=self.last_worker,
            master_starts=self.master_starts,
            safe=self.safe,
            stopping=self.stopping,
            share=self.share,
        )
