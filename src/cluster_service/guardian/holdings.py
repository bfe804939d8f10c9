"""What the guardian holds for the service, and the part of it that it shares with the cleaner.

Everything that a new master must know is here; ``snapshot`` returns it.
"""

from __future__ import annotations

import mmap
import signal
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from cluster_service.wire.facts import Snapshot, WorkerState
from cluster_service.wire.orders import Status

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator
    from socket import socket as Socket  # noqa: N812 - Held has an attribute of that name

    from cluster_service.wire.addresses import Address

    from .per_slot_rules import Slots
    from .unix_sockets import Kept

_SLOTS = 16384
SIGNAL_BITS = 8
"""Number of low-order bits that hold the signal in a number of ``Known.stop_signals``."""


class Numbers:
    """Set of positive integers in memory that this process shares with its forked children."""

    def __init__(self) -> None:
        self._slots = memoryview(mmap.mmap(-1, 8 * _SLOTS)).cast("q")
        self._places: dict[int, int] = {}
        self._free: list[int] = []

    def add(self, number: int) -> None:
        """Add *number*, unless the set already has ``_SLOTS`` numbers."""
        if number in self._places or len(self._places) >= _SLOTS:
            return
        place = self._free.pop() if self._free else len(self._places)
        self._places[number] = place
        self._slots[place] = number

    def discard(self, number: int) -> None:
        """Remove *number* if it is present."""
        place = self._places.pop(number, None)
        if place is not None:
            self._slots[place] = 0
            self._free.append(place)

    def read(self) -> set[int]:
        """Return the numbers that the owner of the set has written."""
        return set(self._slots) - {0}


class Known(NamedTuple):
    """State shared with the cleaner: sets that the guardian keeps up to date."""

    groups: Numbers
    """Process groups of workers and masters (the pids of the leaders)."""
    sockets: Numbers
    """Inode numbers of the sockets that the guardian has opened."""
    stop_signals: Numbers
    """``pid << SIGNAL_BITS | signal`` for each worker whose stop signal is not SIGTERM."""


SWEEP_AT = 16
"""Number of sockets that only one worker uses, at which the guardian starts to look for sockets that it has closed."""
SOCKETS_LIMIT = 64
"""Maximum number of sockets in use that are shared for one worker; the kernel handles any further bind."""

OPEN_BURST, OPENS_PER_SECOND = 256.0, 10.0
"""Burst, and rate per second, of sockets opened for one worker. Each one is reported to the master, which this limit
protects from overload.
"""


@dataclass(eq=False, repr=False)
class Worker:
    """State of one worker: its process, its descriptors, and what it has reported."""

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
    """Value of NOTIFY_SOCKET in its environment."""
    ports: socket.socket | None = None
    launched: bool = False
    """True once its program has been executed and the master has been notified."""
    ready: bool | None = None
    notified: dict[str, str] = field(default_factory=dict)
    listening: list[str] = field(default_factory=list)
    bound: list[str] = field(default_factory=list)
    signals: list[str] = field(default_factory=list)
    stop_signal: int = signal.SIGTERM
    """Signal that asks it to exit."""
    mark: int = 0
    """Mark that all of its descendants inherit (``leftover_processes``)."""
    killed: bool = False
    """True if the guardian has sent it SIGKILL."""
    stopped: bool = False
    """True if the guardian itself has asked it to exit."""
    left: int = 0
    """Number of processes that were left when it exited; 0 once all of them have exited."""
    background: int = 0
    """Pid of one of them that had left the worker's process group; 0: none was found."""
    exited: bool = False
    code: int | None = None
    signal: int | None = None
    output: list[str] | None = None
    """Its last lines of output; None until the log writer has sent them or the wait for them has timed out."""
    bind_error: str = ""
    board: int = -1
    """Descriptor of its board (``wire.worker_protocol``); -1: it has none."""
    check: socket.socket | None = None
    """Socket on which the master checks it: our copy prevents another process from binding the address."""
    check_address: str = ""
    is_private: bool = False
    """True if it gets private sockets, at addresses that only this worker is given."""
    tenant: str = ""
    """Its group of workers: sockets are shared within a group."""
    binds: frozenset[str] = frozenset()
    """Addresses that the configuration assigns to its group."""
    unshared: bool = False
    """True if the kernel handles its binds, because it has blocked the helper."""
    waited: float = 0.0
    """Total seconds that slow helper requests have taken for it."""
    sweep_at: int = SWEEP_AT
    """Number of sockets that only it uses, at which the guardian next looks for sockets that it has closed."""
    churns: bool = False
    """True if it has opened and closed many sockets: a new one is not reported until it has lasted for a while."""
    full: bool = False
    """True once the log has reported that it uses too many sockets."""
    opens_left: float = OPEN_BURST
    """Number of sockets that may be opened for it, as of ``opens_at``."""
    opens_at: float = 0.0
    fast: bool = False
    """True once the log has reported that it binds too many addresses per second."""
    private: dict[str, str] = field(default_factory=dict)
    """Requested address -> address of the private socket, for sockets that listen."""
    per_slot: bool = False
    """True if each worker gets a socket of its own for its addresses, where possible (``per_slot_rules``)."""
    drain: float = 0.0
    """Maximum delay of its stop signal, in seconds, while its connections finish."""
    leaving: bool = False
    """True if it was asked to stop: new connections go to other workers, if there are any."""

    def __str__(self) -> str:
        return f"{self.label} (pid {self.pid})"

    def __repr__(self) -> str:
        state = "exited" if self.exited else "running" if self.launched else "launching"
        return f"<Worker {self.number} {self.label} pid {self.pid}: {state}>"

    def may_open(self, now: float) -> bool:
        """Return whether another socket may be opened for the worker at *now* (monotonic seconds); if so, charge it."""
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
    """One socket that the guardian holds, whether or not a worker uses it."""

    address: Address
    key: str
    """Address as text, with symlinks in its directory resolved: two addresses are the same if their keys are equal."""
    socket: socket.socket
    inode: int
    """Inode number of the socket itself, which identifies it among a worker's descriptors."""
    door: bool = False
    """True if the socket is an endpoint of the service, on which the master accepts."""
    declared: bool = False
    """True if the master requested it; False if a worker's bind did."""
    listening: bool = False
    backlog: int = 0
    """Backlog with which the guardian called listen(2); 0: it did not call it."""
    problem: str = ""
    """Why it does not accept connections although it should, as a sentence; empty if it does."""
    users: set[int] = field(default_factory=set)
    """Numbers of the running workers that were given the socket."""
    kept: Kept | None = None
    """File of a Unix socket."""
    asked: str = ""
    """Address that the worker requested, if the socket is private; *address* is where the socket is bound."""
    tenant: str | None = None
    """Group of the worker that bound it first, or to which the configuration assigns it; None: no group yet."""
    uid: int | None = None
    """Uid that bound it; None: bound as the owner of the service, for the user of *tenant*, which may be any user."""
    quiet: bool = False
    """True if it has not been reported to the master yet, because its worker ``churns``."""
    given: str | None = None
    """Name of an activated socket. The service manager holds the socket too, and owns its file."""
    slots: Slots | None = None
    """Sockets of an address for which each worker has its own; *socket* and *inode* are those of the first."""

    @property
    def inodes(self) -> set[int]:
        """Inode numbers of all its sockets."""
        return {self.inode} if self.slots is None else {member.inode for member in self.slots.members}

    @property
    def sockets(self) -> list[Socket]:
        """All its sockets."""
        return [self.socket] if self.slots is None else [member.socket for member in self.slots.members]

    def __repr__(self) -> str:
        return f"<Held {self.address}: {'listening' if self.listening else 'bound'}, {len(self.users)} users>"


class Holdings:
    """Workers, sockets and the master's checkpoint."""

    def __init__(self, guardian_pid: int, started_at: float) -> None:
        self.known = Known(Numbers(), Numbers(), Numbers())
        """State shared with the cleaner."""
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
        """Status of the service that a master reported last."""
        self.hangups = 0
        """Number of SIGHUPs reported to this master."""
        self.stopping = False
        self.share: dict[str, str] = {}
        self.partners: dict[str, frozenset[str]] = {}
        """Group of workers -> groups with which it shares sockets, from the start order of its latest worker."""

    def __repr__(self) -> str:
        return f"<Holdings: {len(self.by_pid)} of {len(self.workers)} workers alive, {len(self.held)} sockets>"

    def add_worker(self, worker: Worker) -> None:
        """Add *worker*, whose process has been forked."""
        self.workers[worker.number] = worker
        self.by_pid[worker.pid] = worker
        self.known.groups.add(worker.pid)
        if worker.stop_signal != signal.SIGTERM:
            self.known.stop_signals.add(worker.pid << SIGNAL_BITS | worker.stop_signal)

    def forget_worker(self, worker: Worker) -> None:
        """Remove *worker*, whose state is no longer needed."""
        self.by_pid.pop(worker.pid, None)
        self.workers.pop(worker.number, None)
        if worker.pid not in self.by_pid:
            self.known.groups.discard(worker.pid)
            self.known.stop_signals.discard(worker.pid << SIGNAL_BITS | worker.stop_signal)

    def alive(self) -> Iterator[Worker]:
        """Iterate over a copy of the workers whose process has not been reaped."""
        return iter(list(self.by_pid.values()))

    def add_held(self, held: Held) -> None:
        """Add the socket *held*, which has been opened."""
        self.held[held.key] = held
        self.by_inode[held.inode] = held
        if held.given is None:  # the service manager also holds an activated socket
            self.known.sockets.add(held.inode)

    def add_inode(self, held: Held, inode: int) -> None:
        """Add *inode* of a further socket of *held*, which has been opened."""
        self.by_inode[inode] = held
        self.known.sockets.add(inode)

    def drop_inode(self, held: Held, inode: int) -> None:
        """Remove *inode* of a socket of *held* that is about to be closed."""
        if self.by_inode.get(inode) is held:
            del self.by_inode[inode]
        self.known.sockets.discard(inode)

    def drop_held(self, held: Held) -> None:
        """Remove *held*, which is about to be closed."""
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
        """Return the complete state, for a new master."""
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
