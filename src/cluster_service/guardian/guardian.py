"""The guardian's main loop: a single thread that waits for descriptors, signals and the next deadline.

Each iteration: wait; handle ready descriptors; react to signals; reap children; run everything that is due. Deadlines
are state rather than timers: each part reports when it is due next, and the wait ends at the earliest deadline. Nothing
else in the guardian blocks. A failing handler brings down neither the guardian nor its descriptor: the fault is
reported, and the descriptor is watched again after a pause, which grows while the handler keeps failing.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from typing import TYPE_CHECKING, Protocol

from cluster_service.wire import facts

from . import process_limits, reaping, seccomp, syscalls
from .cleaner import Cleaner
from .event_loop import Faults, Loop
from .helper_client import Helper, Tasks
from .helper_tasks import DUTIES
from .holdings import Holdings
from .leftover_processes import Remains
from .listener_repair import Listeners
from .log_client import Logs
from .log_sources import HALF_FULL, READ_PIPES, find_half_full
from .master_supervisor import Keeper
from .order_handlers import Verbs
from .per_slot_sockets import Leaving
from .port_access import Told
from .port_service import Ports
from .reaping import Traced
from .sd_notify import Notifier, NotifySockets
from .service_end import Ending
from .untrusted_input import DISCARD, discard
from .worker_channels import Channels
from .worker_processes import Workers

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from cluster_service.wire.addresses import Address

    from .boot_message import Boot
    from .holdings import Held, Worker

_LATE = 1.0
"""Lateness of a wake-up, or divergence of the machine's two clocks, in seconds, that indicates a suspension."""
_FAULT_PAUSE = 1.0
"""Seconds until a part that failed to return its deadline is asked again."""


class Part(Protocol):
    """A component with deadlines."""

    def deadline(self) -> float | None:
        """Return when ``tick`` is due next."""

    def tick(self, now: float) -> None:
        """Run everything that is due."""


class Guardian:
    """The guardian process: all parts and the loop that drives them."""

    def __init__(self, boot: Boot) -> None:
        self._loop = Loop()
        now = self._loop.now()
        found = process_limits.take_own()
        self.holdings = Holdings(os.getpid(), now)
        self.logs = Logs(self._loop, found, boot)
        self.faults = Faults(self.logs.line, self._loop.now)
        duties = {**DUTIES, DISCARD: discard, READ_PIPES: self.logs.discarder.read, HALF_FULL: find_half_full}
        self.helper = self.logs.helper = Helper(self._loop, duties, self.logs.line, found, boot.title("helper"))
        self.tasks = Tasks(self.helper, self.faults.report)
        told = Told(self._bound, self._listening, self._bind_refused, self._released, self.logs.line)
        self.ports = Ports(self.holdings, told, self.helper, self.tasks)
        self.listeners = Listeners(self._loop, self.holdings, self.ports, self.tasks, self.logs.line)
        self.cleaner = Cleaner(boot, self._loop, self.logs, found, self.holdings.known)
        self.keeper = Keeper(boot, self.holdings, self._loop, self.logs, found, self.cleaner.instance, self.faults)
        self.notify_sockets = NotifySockets(boot.run_dir, boot.name, locked=boot.lock_fd is not None)
        self.channels = Channels(self._loop, self.helper, self.logs.line)
        self.remains = Remains(self.holdings, self.logs)
        self.workers = Workers(
            self.holdings,
            self._loop,
            self.logs,
            self.ports,
            found,
            self.helper,
            self.tasks,
            self.cleaner.instance,
            self.channels,
            self.notify_sockets,
            self.faults,
            self.remains,
        )
        self.ending = Ending(
            boot,
            self.holdings,
            self.keeper,
            self.ports,
            self.logs,
            self.helper,
            self._loop,
            self.cleaner,
            self.faults,
            self.remains,
        )
        self.verbs = Verbs(
            self.holdings,
            self.keeper,
            self.workers,
            self.ports,
            self.logs,
            self.faults,
            self.remains,
            self._loop.now,
        )
        self.leaving = Leaving(self.holdings, self.ports.per_slot, self.helper, self._loop, self.logs.line)
        self.notifier = Notifier(boot.manager, self.holdings, self.keeper, self.ending, self.logs.line, now)
        self.traced = Traced(self.ending.before, self.holdings.by_pid, self.logs.line)
        self._given = boot.manager.sockets
        self._join()
        self._patience = min(_LATE, boot.master_hang_timeout / 4)
        self._woke, self._sleep = now, _clock_gap()
        self._parts: tuple[Part, ...] = (
            self.helper,
            self.logs,
            self.keeper,
            self.cleaner,
            self.remains,
            self.ports.per_slot,
            self.leaving,
            self.traced,
            self.ending,
            self.notifier,
            self.channels,
            self.ports.room,
            self.listeners,
        )
        self._signals: list[int] = []
        self._reload_asked = False
        """A SIGHUP arrived while there was no master to notify."""
        self._reactions: dict[int, Callable[[int, float], None]] = {
            signal.SIGTERM: lambda _number, now: self.ending.signalled("TERM", now),
            signal.SIGINT: lambda _number, now: self.ending.signalled("INT", now),
            signal.SIGHUP: lambda _number, _now: self._hang_up(),
            signal.SIGUSR1: lambda _number, _now: self.logs.reopen(),
            signal.SIGUSR2: lambda _number, now: self.keeper.replace(now),
            signal.SIGQUIT: lambda _number, _now: self.ending.finish(0),
            signal.SIGCHLD: lambda _number, _now: None,  # only wakes the loop: every iteration reaps
        }

    def __repr__(self) -> str:
        return f"<Guardian {self.holdings!r}, {self.keeper!r}>"

    def _join(self) -> None:
        """Connect the parts that refer to each other in both directions."""
        self._loop.on_fault = self.faults.report
        self.ports.on_listen, self.ports.on_close = self.listeners.watch, self.listeners.forget
        self.listeners.report, self.listeners.report_closed = self._listener_state, self._listener_closed
        self.listeners.report_revived = self._listener_revived
        per_slot = self.ports.per_slot
        per_slot.on_begin, per_slot.on_shut_down = self.listeners.forget, self._listener_closed
        per_slot.watch, per_slot.rearm, per_slot.unwatch = self._loop.watch, self._loop.change, self._loop.drop
        self.keeper.on_message = self.verbs.carry_out
        self.keeper.on_lost = self.ending.master_lost
        self.logs.on_tail = self.workers.tail
        self.channels.tell = self.keeper.tell
        self.channels.greeted = self._greeted
        self.channels.room = self.keeper.room
        self.channels.up = lambda worker: self.logs.release(worker.number)
        self.workers.tell = self.keeper.tell
        self.workers.ending = self.ending
        self.remains.tell = self.keeper.tell
        self.verbs.ending = self.ending
        self.verbs.leaving = self.ending.leaving = self.leaving
        self.verbs.deliver_kept = self._deliver_kept

    # ------------------------------------------------------------ the loop

    def run(self) -> int:
        """Run the service until it ends. Return the exit code."""
        self._catch_signals()
        self.holdings.share = {"seccomp": seccomp.probe(dict(os.environ)), "python": "", "inherit": "", "none": ""}
        with contextlib.suppress(OSError):  # process 1 does not need it
            syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)
        inotify = self.ports.paths.open()
        if inotify is not None:
            self._loop.watch(inotify, lambda _events: self._loop.pause(inotify, self.ports.paths.changed()))
        self.logs.start(self._loop.now())
        self.ports.given.adopt(self._given)
        for held in self.ports.given:
            if held.listening:
                self.listeners.watch(held)
        while self.ending.code is None:
            self._tick()
            if self.ending.code is None:
                self._turn(self._deadline())
        code: int = self.ending.code
        self.notifier.end()
        self.ending.close_down(self._turn, self.notify_sockets.close)
        for number in self._reactions:  # Python restores the default actions as it exits, and a signal may still arrive
            signal.signal(number, signal.SIG_IGN)
        return code

    def _tick(self) -> None:
        for part in self._parts:
            # Use the time at which the last iteration began: if the guardian has been suspended since, the next
            # iteration detects it, and deadlines that expired only because of the suspension are not acted on.
            self.faults.run(f"tick of {type(part).__name__}", lambda part=part: part.tick(self._woke))  # type: ignore[misc]

    def _deadline(self) -> float | None:
        times = []
        for part in self._parts:
            try:
                time = part.deadline()
            except Exception as error:  # noqa: BLE001 - the other parts must still be served
                self.faults.report(error, f"deadline of {type(part).__name__}")
                time = self._woke + _FAULT_PAUSE
            if time is not None:
                times.append(time)
        return min(times, default=None)

    def _turn(self, deadline: float | None) -> None:
        seconds = None if deadline is None else max(0.0, deadline - self._loop.now())
        self._loop.turn(seconds)
        now = self._loop.now()
        gap = _clock_gap()
        late = 0.0 if deadline is None else now - max(deadline, self._woke)
        if late > self._patience or gap - self._sleep > self._patience:
            self.keeper.suspended(now)
            self.logs.suspended(now)
            self.remains.suspended(max(0.0, late))
        self._woke, self._sleep = now, gap
        self._reap()
        while self._signals:
            number = self._signals.pop(0)
            self.faults.run(f"signal {number}", lambda number=number: self._reactions[number](number, now))  # type: ignore[misc]

    def _reap(self) -> None:
        for pid, end in reaping.ended():
            self.faults.run(f"end of process {pid}", lambda pid=pid, end=end: self._ended(pid, end))  # type: ignore[misc]

    def _ended(self, pid: int, end: reaping.End) -> None:
        now = self._loop.now()
        worker = self.holdings.by_pid.get(pid)
        if worker is not None:
            self.workers.reaped(worker, end)
        elif self.keeper.master is not None and pid == self.keeper.master.pid:
            self.keeper.reaped(str(end), now)
        elif pid == self.logs.pid:
            self.logs.reaped(now)
        elif pid == self.cleaner.pid:
            self.cleaner.reaped(now)
        elif not self.helper.reaped(pid):
            self.ending.before.discard(pid)
            self.remains.changed()

    def _catch_signals(self) -> None:
        ours, wakeup = socket.socketpair()
        for sock in (ours, wakeup):
            sock.setblocking(False)
        signal.set_wakeup_fd(wakeup.detach(), warn_on_full_buffer=False)
        self._loop.watch(ours.fileno(), lambda _events: _empty(ours))
        for number in self._reactions:
            signal.signal(number, self._note_signal)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        for number in (signal.SIGTTOU, signal.SIGTTIN, signal.SIGALRM, signal.SIGVTALRM, signal.SIGPROF):
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())

    def _note_signal(self, number: int, _frame: FrameType | None) -> None:
        self._signals.append(number)

    # ------------------------------------------------------------ notifications

    def _greeted(self) -> bool:
        master = self.keeper.master
        return master is not None and master.link.greeted

    def _hang_up(self) -> None:
        self._reload_asked = not self._greeted()
        self.holdings.hangups += self._greeted()
        self.keeper.tell(facts.Signalled("HUP"))

    def _deliver_kept(self) -> None:
        """Send a new master what its snapshot lacks: descriptors, and events that occurred without a master."""
        for worker in self.holdings.alive():
            self.workers.tell_monitoring(worker)
        self.channels.deliver_kept()
        if self._reload_asked:
            self._hang_up()

    def _bound(self, worker: Worker, held: Held) -> None:
        address = str(held.address)
        if not worker.exited and address not in worker.bound:
            worker.bound.append(address)
            self.keeper.tell(facts.Listening(address, worker.number, bound=True))

    def _listening(self, worker: Worker, held: Held) -> None:
        address = str(held.address)
        if worker.exited or address in worker.listening or held.asked in worker.private:
            return
        if held.asked:
            worker.private[held.asked] = address
        else:
            worker.listening.append(address)
        self.logs.release(worker.number)
        self.keeper.tell(facts.Listening(address, worker.number, asked=held.asked))

    def _bind_refused(self, worker: Worker, address: Address, sentence: str) -> None:
        if worker.exited:
            return
        worker.bind_error = sentence
        self.keeper.tell(facts.ListenFailed(str(address), sentence, worker.number))

    def _released(self, held: Held) -> None:
        self.keeper.tell(facts.Released(str(held.address)))

    def _listener_state(self, held: Held) -> None:
        self.keeper.tell(facts.ListenerState(str(held.address), held.problem))

    def _listener_revived(self, held: Held) -> None:
        self.keeper.tell(facts.ListenerState(str(held.address), revived=True))

    def _listener_closed(self, worker: Worker, held: Held) -> None:
        address = str(held.address)
        for addresses in (worker.listening, worker.bound):
            if address in addresses:
                addresses.remove(address)
        self.keeper.tell(facts.Unlistened(worker.number, address))


def _empty(sock: socket.socket) -> None:
    with contextlib.suppress(BlockingIOError):
        while sock.recv(4096):
            pass


def _clock_gap() -> float:
    """Return the seconds for which the machine was suspended since boot: the difference of its clocks."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic()
