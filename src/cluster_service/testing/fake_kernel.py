"""A simulated guardian: it accepts the same orders, sends the same facts, and its processes are plain objects.

Invariants, which the contract tests check against this class and the real guardian:

- A worker number is used once, whether or not the fork succeeded; a number that is not greater than all earlier ones is
  refused.
- A signal order of a given name reaches a worker once.
- The sockets of a private worker belong to it alone: they are listed under ``private``, never among the listeners.
- Nothing is sent before ``Hello``. The first fact of a connection is the ``Snapshot``, which contains everything that
  earlier connections received and did not forget.
- A fact that was not delivered when a connection broke is not sent again: it is in the next snapshot.

Every order and fact is converted to JSON and back, so what passes here also passes on the wire. Not simulated: bytes,
descriptors, the log, and what a guardian does by itself when no master returns.
"""

from __future__ import annotations

import itertools
import json
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from signal import SIGKILL
from typing import TYPE_CHECKING, Any

from cluster_service.wire import orders
from cluster_service.wire.facts import (
    FACTS,
    Exited,
    ListenFailed,
    Listening,
    Message,
    Notified,
    Output,
    Ready,
    Refused,
    Signalled,
    Snapshot,
    Spawned,
    SpawnFailed,
    Swept,
    WorkerState,
)
from cluster_service.wire.framing import name_of, to_json

from .simulated_programs import Process, Program

if TYPE_CHECKING:
    from .virtual_time import Clock

Table = Mapping[str, Program | Callable[[orders.Spawn], Program]]
"""Maps argv[0] to its program, or to a function that returns one at each start."""

SHARES = ("seccomp", "python", "inherit", "none")
MISSING = "/nonexistent"
"""No directory exists at or below this path."""


@dataclass
class Held:
    """A listening socket held by the guardian."""

    address: str
    door: bool = False
    listening: bool = False
    problem: str = ""


@dataclass
class FakeKernel:
    """A guardian on a simulated machine. *programs* may be replaced at any time; running processes are not affected."""

    clock: Clock
    programs: Table
    refuse_forks: int = 0
    """How many of the next forks fail, as on a machine without free processes or memory."""
    occupied: dict[str, str] = field(default_factory=dict)
    """Addresses held by unrelated processes, each with a description of the process: ``pid 71 (nginx)``."""
    facts: deque[Any] = field(default_factory=deque)
    """Facts that the connected master has not read yet, oldest first."""
    processes: dict[int, Process] = field(default_factory=dict)
    """Processes by worker number; those that have exited stay until they are forgotten."""
    held: dict[str, Held] = field(default_factory=dict)
    notebook: str = ""
    last_worker: int = 0
    master_starts: int = 0
    stopping: bool = False
    orphans: list[Process] = field(default_factory=list)
    """Processes that were forgotten while their children still ran, so that no process will end those children."""
    ended: int | None = None
    """Exit code of the guardian; None until it has exited."""
    pid: int = 4000
    on_order: Callable[[Any], None] = lambda _order: None
    """Called with each order before it is carried out."""
    on_exit: Callable[[Process], None] = lambda _process: None
    """Called with each process when it exits."""
    on_children_killed: Callable[[Process], None] = lambda _process: None
    """Called with each process whose children are killed."""

    def __post_init__(self) -> None:
        self.started_at = self.clock.now
        self._pids = itertools.count(self.pid + 1)
        self._ports = itertools.count(40001)
        self._connected = False
        self._greeted = False
        self._handlers: dict[type, Callable[[Any], None]] = {
            orders.Hello: self._hello,
            orders.Note: self._note,
            orders.Spawn: self._spawn,
            orders.Signal: self._signal,
            orders.Tell: self._tell_worker,
            orders.Forget: self._forget,
            orders.Listen: self._listen,
            orders.Close: self._close,
            orders.Bye: self._bye,
        }

    def __repr__(self) -> str:
        alive = sum(not process.exited for process in self.processes.values())
        unread = f"{len(self.facts)} facts unread"
        return f"<FakeKernel: {alive} alive, {len(self.held)} sockets, master {self.master_starts}, {unread}>"

    # Called by the master.

    def connect(self) -> None:
        """Connect a new master: the previous one receives nothing more, and its unread facts are dropped."""
        self.disconnect()
        self.master_starts += 1
        self._connected = True

    def disconnect(self) -> None:
        """Close the connection of the master, as its death does."""
        self._connected = self._greeted = False
        self.facts.clear()

    def receive(self, order: Any) -> None:
        """Carry out one order of the connected master. Do nothing once the guardian has exited."""
        known = orders.ORDERS.from_json(json.loads(json.dumps(to_json(order))))
        if self.ended is not None or not self._connected:
            return
        self.on_order(known)
        handler = self._handlers.get(type(known))
        if handler is not None:
            handler(known)

    # Called by the world.

    def alive(self) -> list[Process]:
        """Return the running processes, oldest first."""
        return [process for process in self.processes.values() if not process.exited]

    def snapshot(self) -> Snapshot:
        """Return the snapshot that a master would receive if it sent Hello now."""
        return Snapshot(
            version=orders.VERSION,
            guardian_pid=self.pid,
            started_at=self.started_at,
            workers=[asdict(process.state) for process in self.processes.values()],
            listeners=[asdict(held) for held in self.held.values()],
            notebook=self.notebook,
            last_worker=self.last_worker,
            master_starts=self.master_starts,
            stopping=self.stopping,
            share=dict.fromkeys(SHARES, ""),
        )

    def kill(self, worker: int, signal: int = SIGKILL) -> None:
        """Send *signal* to the process of a worker, as another process or the kernel's OOM killer would."""
        self.processes[worker].signalled(signal)

    def crash(self, worker: int, code: int = 1) -> None:
        """Let a worker exit by itself with exit *code*."""
        self.processes[worker].end(code, None)

    def signal(self, name: str) -> None:
        """Send the guardian itself TERM, INT or HUP."""
        self.stopping = self.stopping or name in {"TERM", "INT"}
        self._tell(Signalled(name))

    def suspend(self, seconds: float) -> None:
        """Suspend the whole machine for *seconds*."""
        frozen = []
        for process in self.processes.values():
            if not process.exited or process.children_left:
                process.stood_still += seconds
            if process.children_end is not None:  # the guardian, which times the sweep, is suspended too
                process.children_end.cancel()
                frozen.append((process, process.children_end, process.children_end.when - self.clock.now))
        self.clock.jump(seconds)
        for process, timer, left in frozen:
            process.children_end = self.clock.call_later(left, timer.callback)

    # Orders, one method each.

    def _hello(self, order: orders.Hello) -> None:
        if order.version != orders.VERSION:
            self._greeted = True  # for this one answer
            self._refuse(order, f"this guardian speaks version {orders.VERSION}, not {order.version}")
            self._greeted = False
            return
        self._greeted = True
        self._tell(self.snapshot())

    def _note(self, order: orders.Note) -> None:
        self.notebook = order.text

    def _spawn(self, order: orders.Spawn) -> None:
        if order.worker <= self.last_worker:
            self._refuse(order, f"worker {order.worker} is not new: the last was {self.last_worker}", order.worker)
            return
        self.last_worker = order.worker
        error = self._spawn_error(order)
        if error:
            self._tell(SpawnFailed(order.worker, error))
            return
        entry = self.programs[order.argv[0]]
        program = entry if isinstance(entry, Program) else entry(order)
        pid = next(self._pids)
        state = WorkerState(order.worker, pid, meta=dict(order.meta), started_at=self.clock.now)
        process = Process(
            order, program, self.clock, state,
            on_listen=self._process_listens, on_told=self._process_told, on_notify=self._process_notifies,
            on_exit=self._process_exited,
        )
        self.processes[order.worker] = process
        self._tell(Spawned(order.worker, pid, self.clock.now))
        process.begin()

    def _spawn_error(self, order: orders.Spawn) -> str:
        if self.refuse_forks > 0:
            self.refuse_forks -= 1
            return "cannot fork: resource temporarily unavailable"
        if order.cwd == MISSING or order.cwd.startswith(MISSING + "/"):
            return f"cannot change to {order.cwd}: no such directory"
        if not order.argv or order.argv[0] not in self.programs:
            return f"cannot run {order.argv[0] if order.argv else 'an empty command'}: no such file"
        if order.user is not None and order.user != "root":
            return f"there is no user {order.user}"
        if order.private and order.share == "none":
            return "it is to be tried on ports of its own, and with --share none it opens them itself"
        missing = [address for address in order.inherit if address not in self.held]
        return f"no socket is held for {missing[0]}" if missing else ""

    def _signal(self, order: orders.Signal) -> None:
        process = self._known(order)
        if process is None:
            return
        if order.order in process.state.signals:
            self._refuse(order, f"worker {order.worker} was sent {order.order!r} already", order.worker)
            return
        if process.exited and not order.whole_group:
            self._refuse(order, f"worker {order.worker} has exited", order.worker)
            return
        process.state.signals.append(order.order)
        process.signalled(order.signal)
        if order.order == "sweep" and process.children_left:
            self._sweep(process, order.after)

    def _sweep(self, process: Process, after: float) -> None:
        takes = process.program.children_take
        killed = takes is None or takes > after

        def end() -> None:
            process.children_left, process.children_end = False, None
            if killed:
                self.on_children_killed(process)
            background = process.state.pid + 1 if process.program.background else 0
            self._change(process, left=0, background=background)
            self._tell(Swept(process.worker, background))

        process.children_end = self.clock.call_later(after if takes is None else min(takes, after), end)

    def _tell_worker(self, order: orders.Tell) -> None:
        process = self._known(order)
        if process is None:
            return
        if not process.spawn.channel or process.exited:
            why = "has exited" if process.exited else "has no channel"
            self._refuse(order, f"worker {order.worker} {why}", order.worker)
            return
        process.hear(order.message)

    def _forget(self, order: orders.Forget) -> None:
        process = self.processes.get(order.worker)
        if process is None:
            return
        if not process.exited:
            self._refuse(order, f"worker {order.worker} is still alive", order.worker)
            return
        if process.children_left and process.children_end is None:
            self.orphans.append(process)
        del self.processes[order.worker]

    def _listen(self, order: orders.Listen) -> None:
        if order.address in self.occupied:
            error = f"{order.address} is taken: {self.occupied[order.address]} listens there"
            self._tell(ListenFailed(order.address, error))
            return
        held = self.held.setdefault(order.address, Held(order.address, order.door))
        held.listening = True
        self._tell(Listening(order.address, None, order.door))

    def _close(self, order: orders.Close) -> None:
        self.held.pop(order.address, None)
        for process in self.alive():
            for addresses in (process.state.listening, process.state.bound):
                if order.address in addresses:
                    addresses.remove(order.address)

    def _bye(self, order: orders.Bye) -> None:
        for process in self.processes.values():
            process.signalled(SIGKILL)
            process.children_left = False
            if process.children_end is not None:
                process.children_end.cancel()
        self.held.clear()
        self.ended = order.code
        self.disconnect()

    # Events of processes.

    def _process_listens(self, process: Process, address: str) -> bool:
        if process.spawn.private:
            if address not in process.state.private:
                port = next(self._ports)
                own = f"unix:@{port}" if address.startswith("unix:") else f"127.0.0.1:{port}"
                process.state.private[address] = own
                self._tell(Listening(own, process.worker, asked=address))
            return True
        if address in self.occupied:
            error = f"{address} is taken: {self.occupied[address]} listens there"
            self._change(process, bind_error=error)
            self._tell(ListenFailed(address, error, process.worker))
            return False
        if process.spawn.share in {"seccomp", "python"}:
            held = self.held.setdefault(address, Held(address))
            if held.listening:
                process.state.bound.append(address)
                self._tell(Listening(address, process.worker, bound=True))
            if process.program.listens_again or not held.listening:
                held.listening = True
                process.state.listening.append(address)
                self._tell(Listening(address, process.worker))
        return True

    def _process_told(self, process: Process, message: Mapping[str, Any]) -> None:
        if not process.spawn.channel:
            return
        if message.get("type") == "ready":
            self._change(process, ready=bool(message["ready"]))
            self._tell(Ready(process.worker, bool(message["ready"])))
        else:
            self._tell(Message(process.worker, dict(message)))

    def _process_notifies(self, process: Process, fields: Mapping[str, str]) -> None:
        process.state.notified.update(fields)
        self._tell(Notified(process.worker, dict(fields)))

    def _process_exited(self, process: Process, code: int | None, signal: int | None) -> None:
        left = int(process.children_left)
        self._change(process, exited=True, code=code, signal=signal, left=left)
        self.on_exit(process)
        self._tell(Exited(process.worker, code, signal, left))
        self.clock.call_later(0.01, lambda: self._output(process))

    def _output(self, process: Process) -> None:
        self._change(process, output=list(process.program.lines))
        if process.worker in self.processes:
            self._tell(Output(process.worker, list(process.program.lines)))

    # Utilities.

    def _known(self, order: orders.Signal | orders.Tell) -> Process | None:
        process = self.processes.get(order.worker)
        if process is None:
            self._refuse(order, f"there is no worker {order.worker}", order.worker)
        return process

    def _change(self, process: Process, **changes: Any) -> None:
        process.state = type(process.state)(**{**asdict(process.state), **changes})

    def _refuse(self, order: Any, why: str, worker: int | None = None) -> None:
        self._tell(Refused(name_of(type(order)), why, worker))

    def _tell(self, fact: Any) -> None:
        if self._greeted:
            self.facts.append(FACTS.from_json(json.loads(json.dumps(to_json(fact)))))
