"""Listening sockets of single workers, and the end of a worker that does not finish its requests by itself."""

from __future__ import annotations

import errno
import select
import signal
import socket
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cluster_service.machine import shortage

from . import per_slot_rules
from .bind_requests import LeaveAlone
from .helper_client import ask
from .per_slot_rules import Member, Slots

if TYPE_CHECKING:
    from collections.abc import Callable

    from .event_loop import Loop
    from .helper_client import Answer, Helper, Steps, Tasks
    from .holdings import Held, Holdings, Worker

LOOK_SECONDS = 0.1
"""Seconds from a connection's arrival to a check of the queues, and between checks while connections wait."""
RETRY_SECONDS = 30.0
"""Seconds until queues that could not be read are checked again."""
_EVENTS = select.EPOLLIN | select.EPOLLHUP | select.EPOLLONESHOT


class PerSlot:
    """All addresses with per-worker sockets. *log* writes a line."""

    def __init__(self, holdings: Holdings, helper: Helper, tasks: Tasks, log: Callable[[str], None]) -> None:
        self._holdings = holdings
        self._helper = helper
        self._tasks = tasks
        self._log = log
        self.watch: Callable[[int, Callable[[int], None], int], None] = lambda _descriptor, _handler, _events: None
        self.rearm: Callable[[int, int], None] = lambda _descriptor, _events: None
        self.unwatch: Callable[[int], None] = lambda _descriptor: None
        self.on_begin: Callable[[Held], None] = lambda _held: None
        """Called before an address switches to per-worker sockets."""
        self.on_shut_down: Callable[[Worker, Held], None] = lambda _worker, _held: None
        """Called when a worker that was not asked to stop has shut down its own socket."""
        self._problem: str | None = None
        """Why connections cannot be steered on this machine; empty if they can; None if not yet tried."""

    # ------------------------------------------------------------ a worker's socket

    def prepare(self, worker: Worker, held: Held, opened: Steps[Answer]) -> Steps[Member | None]:
        """Return the socket of *held* for *worker*; None: it uses the shared one. Raises OSError.

        *opened*: the steps that open another socket for the address.
        """
        if held.slots is None:
            if not (yield from self._begins(worker, held)):
                return None
            yield from ask("join", {}, [held.socket.fileno()])
            self.on_begin(held)
            held.slots = Slots(Member(held.socket, held.inode), listening=held.listening)
            if held.listening:
                self._watch(held, held.slots.members[0])
        member = held.slots.of(worker.number) or held.slots.waiting()
        if member is None:
            if len(held.slots.members) >= per_slot_rules.MEMBERS_LIMIT:
                raise OSError(errno.EMFILE, f"{held.address} has {per_slot_rules.MEMBERS_LIMIT} sockets already")
            answer = yield from opened
            (descriptor,) = answer.descriptors
            sock = socket.socket(held.address.family, held.socket.type, 0, fileno=descriptor)
            member = Member(sock, answer.values["inode"])
            if worker.exited or self._holdings.held.get(held.key) is not held:
                self._helper.close(sock.detach())
                raise LeaveAlone
            held.slots.members.append(member)
            self._holdings.add_inode(held, member.inode)
        return member

    def _begins(self, worker: Worker, held: Held) -> Steps[bool]:
        """Return whether the workers of *held*, which no worker uses yet, get a socket each."""
        shared = held.door or held.given is not None or held.asked or held.users or held.address.kind != "tcp"
        if shared or not worker.per_slot:
            return False
        if self._problem is None:
            try:
                self._problem = (yield from ask("probe_steering", {})).values["problem"]
            except OSError as error:
                self._problem = f"the trial failed: {shortage.explain(error)}"
            if self._problem:
                self._log(
                    f"workers share one listening socket: connections cannot be steered here ({self._problem}); "
                    "a program that does not handle its stop signal loses the requests that it is working on"
                )
        return not self._problem and not worker.exited

    def assign(self, worker: Worker, held: Held, member: Member) -> bool:
        """Assign *member* to *worker*. Return whether it already listens, as it does after a crash."""
        member.worker, member.stuck = worker.number, False
        listens = held.slots is not None and member in held.slots.order
        if listens and not member.drawn:
            self._draw(worker, held, member)
        return listens

    def listens(self, worker: Worker, held: Held) -> Steps[None]:
        """Note that the socket of *worker* listens, and steer connections to it."""
        member = None if held.slots is None else held.slots.of(worker.number)
        if held.slots is None or member is None:
            return
        if member not in held.slots.order:
            held.slots.order.append(member)
            held.slots.attached = ()
            self._watch(held, member)
            self._rearm(held.slots)
        member.drawn = not worker.leaving
        yield from self._steer(held)

    def give_up(self, worker: Worker, held: Held) -> Steps[None]:
        """Shut down the socket of *worker* after a listen timeout: it may listen, and its state must be known."""
        member = None if held.slots is None else held.slots.of(worker.number)
        if held.slots is None or member is None or member in held.slots.order:
            return
        try:
            yield from ask("withdraw", {}, [member.socket.fileno()])
        except OSError as error:
            if error.errno != errno.ENOTCONN:  # it does not listen
                self._failed(held, error)

    def _draw(self, worker: Worker, held: Held, member: Member) -> None:
        member.drawn = not worker.leaving
        self._tasks.add(lambda: self._steer(held))

    # ------------------------------------------------------------ stopping

    def pause(self, worker: Worker) -> None:
        """Permanently direct the new connections of *worker* to other workers."""
        worker.leaving = True
        for held, member in self.of(worker):
            member.drawn = False
            self._tasks.add(lambda held=held: self._steer(held))  # type: ignore[misc]

    def of(self, worker: Worker) -> list[tuple[Held, Member]]:
        """Return the addresses for which *worker* has a socket of its own, with these sockets."""
        found = []
        for held in self._holdings.held.values():
            member = None if held.slots is None else held.slots.of(worker.number)
            if member is not None:
                found.append((held, member))
        return found

    def gone(self, worker: Worker) -> None:
        """Handle the exit of *worker*."""
        for held, member in self.of(worker):
            member.worker, member.drawn = None, False
            self._tasks.add(lambda held=held, member=member: self._left(held, member, asked=worker.leaving))  # type: ignore[misc]

    def _left(self, held: Held, member: Member, *, asked: bool) -> Steps[None]:
        """Handle the exit of the worker of *member*. Its queue is dropped only if it was *asked* to stop."""
        slots = held.slots
        if slots is None or self._holdings.held.get(held.key) is not held or member.worker is not None:
            return
        if member in slots.order and not (asked and any(each.drawn for each in slots.order)):
            yield from self._steer(held)
            return
        if len(slots.members) == 1:
            return
        self._unwatch(member)
        try:
            yield from slots.withdraw(member)
        except OSError as error:
            self._failed(held, error)
            return
        if member.worker is None and self._holdings.held.get(held.key) is held:
            slots.members.remove(member)
            self._holdings.drop_inode(held, member.inode)
            if held.socket is member.socket:
                held.socket, held.inode = slots.members[0].socket, slots.members[0].inode
            self._helper.close(member.socket.detach())
            self._rearm(slots)

    # ------------------------------------------------------------ queues, and shutdown(2) by a worker

    def _watch(self, held: Held, member: Member) -> None:
        member.watched = True
        self.watch(member.socket.fileno(), lambda events: self._noticed(held, member, events), _EVENTS)

    def _unwatch(self, member: Member) -> None:
        if member.watched:
            member.watched = False
            self.unwatch(member.socket.fileno())

    def _noticed(self, held: Held, member: Member, events: int) -> None:
        """Handle a new connection, after which events stay disabled until ``_rearm``, or a socket shutdown."""
        slots = held.slots
        if events & select.EPOLLHUP:
            self._unwatch(member)
            self._tasks.add(lambda: self._ended(held, member))
        elif slots is not None and len(slots.order) > 1:
            slots.look_at = slots.look_at or time.monotonic() + LOOK_SECONDS
        else:
            self.rearm(member.socket.fileno(), select.EPOLLHUP)

    def _rearm(self, slots: Slots) -> None:
        for member in slots.order:
            if member.watched:
                self.rearm(member.socket.fileno(), _EVENTS)

    def deadline(self) -> float | None:
        """Return when ``tick`` is due next."""
        times = [held.slots.look_at for held in self._holdings.held.values() if held.slots is not None]
        return min((at for at in times if at is not None), default=None)

    def tick(self, now: float) -> None:
        """Check the queues that are due."""
        for held in self._holdings.held.values():
            if held.slots is not None and held.slots.look_at is not None and now >= held.slots.look_at:
                held.slots.look_at = None
                self._tasks.add(lambda held=held: self._look(held))  # type: ignore[misc]

    def _look(self, held: Held) -> Steps[None]:
        slots = held.slots
        if slots is None or self._holdings.held.get(held.key) is not held or not slots.order:
            return
        seen = list(slots.order)
        try:
            answer = yield from ask("queues", {}, [member.socket.fileno() for member in seen])
        except OSError:  # a worker holds the lock of its socket: do not make the others wait for it repeatedly
            slots.look_at = time.monotonic() + RETRY_SECONDS
            return
        if seen != slots.order or self._holdings.held.get(held.key) is not held:
            return
        if slots.note(answer.values["queues"]):
            slots.look_at = time.monotonic() + LOOK_SECONDS
        else:
            self._rearm(slots)
        yield from self._steer(held)

    def _ended(self, held: Held, member: Member) -> Steps[None]:
        if held.slots is not None and member in held.slots.order and not member.watched:
            held.slots.left(member)
            member.drawn = member.stuck = False
            self._rearm(held.slots)
            worker = self._holdings.workers.get(member.worker or 0)
            if worker is not None and not worker.exited and not worker.leaving:
                self.on_shut_down(worker, held)
            yield from self._steer(held)

    def forget(self, held: Held) -> None:
        """Stop watching *held*, which is about to be closed."""
        for member in [] if held.slots is None else held.slots.members:
            self._unwatch(member)

    def _steer(self, held: Held) -> Steps[None]:
        if held.slots is None or self._holdings.held.get(held.key) is not held:
            return
        try:
            yield from held.slots.steer()
        except OSError as error:
            self._failed(held, error)

    def _failed(self, held: Held, error: OSError) -> None:
        why = shortage.explain(error)
        self._log(f"cannot steer the connections to {held.address}: {why}; trying again at the next change")


def socket_for(worker: Worker, held: Held) -> socket.socket:
    """Return the socket of *held* that *worker* uses. Raises LeaveAlone if it no longer has one."""
    if held.slots is None:
        return held.socket
    member = held.slots.of(worker.number)
    if member is None:
        raise LeaveAlone
    return member.socket


DRAIN_LOOK_SECONDS = 0.05
"""Seconds between two checks of a worker's connections; at least four times the duration of the last check."""
SETTLE_SECONDS, SETTLE_LIMIT = 0.3, 3.0
"""Seconds to wait for connections that were being opened at the pause: four round trips, within these bounds."""
QUEUE_SECONDS = 1.0
"""Seconds to wait for an empty queue if nothing else is awaited: the worker finishes its requests itself."""
EAGER_SECONDS = 2.0
"""Seconds after which busy clients are no longer awaited: connections end once a request has been answered."""

_QUIET: dict[bool, tuple[dict[str, float], dict[str, float]]] = {
    False: (
        {"fresh": 5.0, "answered": 0.5, "stream": 2.0, "unsure": 2.0},
        {"fresh": 5.0, "answered": 0.02, "stream": 0.5, "unsure": 0.2},
    ),
    True: ({}, {"answered": 0.02, "unsure": 0.2}),
}
"""Seconds without data after which connections are closed, by kind: initially, and after EAGER_SECONDS.

Keyed by whether the program handles the signal. A program that does may finish streams and idle connections in its own
way, so the guardian initially waits for a moment without a request. (Node.js always handles it, and just exits.)
"""
_LAST_CALL = 0.5
"""Seconds before the deadline at which all connections of a program without a signal handler are closed.

A program that processes one request at a time answers it and then reads the end of the data.
"""


@dataclass(eq=False, repr=False)
class _Leave:
    """A worker that waits for its stop signal."""

    worker: Worker
    began: float
    until: float
    then: list[Callable[[], object]]
    look_at: float
    ports: list[int]
    signal: int
    only_queue: bool
    """Whether to wait only for the queues of its sockets."""
    looking: bool = False
    calm: int = 0
    """Number of consecutive checks that found nothing to wait for."""
    found: dict[str, Any] = field(default_factory=dict)
    """Result of the last check."""


class Leaving:
    """Workers that wait for their stop signal. *log* writes a line."""

    def __init__(
        self, holdings: Holdings, slots: PerSlot, helper: Helper, loop: Loop, log: Callable[[str], None]
    ) -> None:
        self._holdings = holdings
        self._slots = slots
        self._helper = helper
        self._loop = loop
        self._log = log
        self._leaves: dict[int, _Leave] = {}

    def __repr__(self) -> str:
        return f"<Leaving: {len(self._leaves)} workers wait>"

    def begin(self, worker: Worker, seconds: float, then: Callable[[], object], number: int = signal.SIGTERM) -> None:
        """Call *then* when the connections of *worker* have finished, or after *seconds*; now if it has none.

        Further calls for a waiting worker are queued in order. *number*: the signal that it will be sent.
        """
        leave = self._leaves.get(worker.number)
        if leave is not None:
            leave.then.append(then)
            return
        held = [held for held, _ in self._slots.of(worker)]
        if worker.exited or not held:
            worker.leaving = True
            then()
            return
        self._slots.pause(worker)
        only_queue = not worker.per_slot or seconds <= 0
        seconds = QUEUE_SECONDS if only_queue else seconds
        now = self._loop.now()
        ports = [each.address.port for each in held]
        self._leaves[worker.number] = _Leave(
            worker, now, now + seconds, [then], now, ports, number, only_queue=only_queue
        )

    def deadline(self) -> float | None:
        """Return when ``tick`` is due next."""
        times = [leave.until if leave.looking else min(leave.until, leave.look_at) for leave in self._leaves.values()]
        return min(times, default=None)

    def tick(self, now: float) -> None:
        """Check the workers that are due, and send the stop signal to those whose time is over."""
        for number, leave in list(self._leaves.items()):
            if leave.worker.exited:
                del self._leaves[number]
            elif now >= leave.until:
                self._end(leave, self._left_over(leave))
            elif now >= leave.look_at and not leave.looking:
                self._look(leave, now)

    def _look(self, leave: _Leave, now: float) -> None:
        leave.looking = True
        quiet = {kind: round(seconds * 1000) for kind, seconds in self._quiet(leave, now).items()}
        values = {
            "pid": leave.worker.pid,
            "ports": leave.ports,
            "signal": leave.signal,
            "quiet": quiet,
        }
        lent = [member.socket.fileno() for _, member in self._slots.of(leave.worker)]
        self._helper.ask("look_at_connections", values, lent, lambda answer: self._looked(leave, answer))

    def _quiet(self, leave: _Leave, now: float) -> dict[str, float]:
        """Return the kinds of connections to close, with their limits in seconds without data."""
        if leave.only_queue or "handled" not in leave.found:
            return {}
        handled, limit = leave.found["handled"], (leave.until - leave.began) / 2
        if not handled and now >= leave.until - min(_LAST_CALL, limit):
            return dict.fromkeys(("fresh", "answered", "stream", "unsure", "busy"), 0.0)
        eager = now >= leave.began + min(EAGER_SECONDS, limit)
        return {kind: min(seconds, limit) for kind, seconds in _QUIET[handled][eager].items()}

    def _looked(self, leave: _Leave, answer: Answer) -> None:
        leave.looking = False
        now = self._loop.now()
        leave.look_at = now + max(DRAIN_LOOK_SECONDS, 4 * answer.seconds)
        if self._leaves.get(leave.worker.number) is not leave or leave.worker.exited:
            return
        leave.found = answer.values
        if answer.error:
            leave.found = {"problem": answer.sentence}
        elif self._is_finished(leave, now):
            self._end(leave, "")

    def _is_finished(self, leave: _Leave, now: float) -> bool:
        found = leave.found
        paused = all(
            held.slots is not None and held.slots.others_take(leave.worker.number)
            for held, _ in self._slots.of(leave.worker)
        )
        settle = min(max(SETTLE_SECONDS, 4 * found["rtt"]), SETTLE_LIMIT)
        if found["queued"] or (paused and now < leave.began + settle):
            leave.calm = 0
        elif leave.only_queue:
            return True
        elif found["busy"] or found["unsure"] or (found["idle"] and not found["handled"]):
            leave.calm = 0
        else:
            leave.calm += 1
        # The program must close connections that were ended; it has until the next check.
        return leave.calm > bool(found["ended"])

    def _left_over(self, leave: _Leave) -> str:
        """Return what did not finish in time, as the end of a sentence."""
        found = leave.found
        if "problem" in found:
            return f"its connections could not be looked at ({found['problem']})"
        if leave.only_queue:
            return ""
        busy, idle = found.get("busy", 0) + found.get("queued", 0), found.get("unsure", 0) + found.get("idle", 0)
        parts = [f"{busy} connections were in a request" if busy else "", f"{idle} were idle" if idle else ""]
        return ", ".join(part for part in parts if part)

    def _end(self, leave: _Leave, left_over: str) -> None:
        del self._leaves[leave.worker.number]
        if left_over:
            seconds = leave.until - leave.began
            self._log(f"{leave.worker}: drain_timeout ({seconds:g} s) is over and {left_over}; sending the stop signal")
        for then in leave.then:
            then()
