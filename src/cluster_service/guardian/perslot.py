"""Addresses on which each worker has a socket of its own, in the guardian. For the rules see ``slots``."""

from __future__ import annotations

import errno
import select
import socket
import time
from typing import TYPE_CHECKING

from cluster_service.machine import shortage

from . import slots
from .slots import Member, Slots
from .steps import ask
from .wants import LeaveAlone

if TYPE_CHECKING:
    from collections.abc import Callable

    from .helper import Answer, Helper
    from .holdings import Held, Holdings, Worker
    from .steps import Steps, Tasks

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
            if len(held.slots.members) >= slots.MEMBERS_LIMIT:
                raise OSError(errno.EMFILE, f"{held.address} has {slots.MEMBERS_LIMIT} sockets already")
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
