"""Limits on sockets that a program binds and closes again: closed ones are released, those in use are bounded.

A resolver with random source ports, or FTP with its data connections, would make the service hold thousands of sockets.
So once a worker is the sole user of ``SWEEP_AT`` sockets, the guardian releases those that none of its processes has
open; further binds beyond ``SOCKETS_LIMIT`` sockets in use, or faster than ``OPENS_PER_SECOND``, are left to the
kernel. If a worker closes many of its sockets, new ones are reported only after they have lasted: the log would
otherwise have two lines for each.

Smaller numbers are checked ``FIRST_LOOK`` seconds after the worker got a socket, and then at doubling intervals while
it is the sole user of any: a closed socket is held for about as long as it was open, and an idle service stays idle. A
worker that was asked to stop is not checked: its successor needs the ports that it stops using.
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING, NamedTuple

from .holdings import OPENS_PER_SECOND, SOCKETS_LIMIT, SWEEP_AT
from .steps import ask
from .wants import LeaveAlone

FIRST_LOOK = 3.0
"""Seconds until the first check of a worker that got a socket."""

if TYPE_CHECKING:
    from collections.abc import Callable

    from cluster_service.wire.addresses import Address

    from .holdings import Held, Holdings, Worker
    from .steps import Steps


class Told(NamedTuple):
    """Callbacks for port events."""

    bound: Callable[[Worker, Held], None]
    """A worker bound a socket that already listens; it may never call listen (gunicorn checks SO_ACCEPTCONN first)."""
    listening: Callable[[Worker, Held], None]
    refused: Callable[[Worker, Address, str], None]
    released: Callable[[Held], None]
    """A socket was closed that no process had open any more."""
    log: Callable[[str], None]


class Look(NamedTuple):
    """When a worker is due for a check, in monotonic seconds, and the interval that precedes it."""

    at: float
    pause: float


class Room:
    """The sockets of which one worker is the sole user. *close* closes a socket, *start* runs steps."""

    def __init__(
        self,
        holdings: Holdings,
        told: Told,
        close: Callable[[Held], None],
        start: Callable[[Callable[[], Steps[None] | None]], None],
    ) -> None:
        self._holdings = holdings
        self._told = told
        self._close = close
        self._start = start
        self._looks: dict[int, Look] = {}

    def given(self, worker: Worker) -> None:
        """Schedule a check of *worker*, which got a socket that it may close soon."""
        at = time.monotonic() + FIRST_LOOK
        known = self._looks.get(worker.number)
        self._looks[worker.number] = Look(at if known is None else min(at, known.at), FIRST_LOOK)

    def deadline(self) -> float | None:
        """Return when ``tick`` is due next."""
        return min((look.at for look in self._looks.values()), default=None)

    def tick(self, now: float) -> None:
        """Check the workers that are due."""
        for number, look in list(self._looks.items()):
            if now >= look.at:
                del self._looks[number]
                self._start(lambda number=number, pause=look.pause: self._look(number, pause))  # type: ignore[misc]

    def _look(self, number: int, pause: float) -> Steps[None]:
        """Release the sockets that a worker has closed, and schedule another check if any remain."""
        worker = self._holdings.workers.get(number)
        if worker is None or worker.exited or worker.signals:
            return
        alone = self._alone(worker)
        if alone:
            with contextlib.suppress(OSError):  # the helper failed: retry later
                yield from self._sweep(worker, alone)
        if not worker.exited and self._alone(worker) and number not in self._looks:
            self._looks[number] = Look(time.monotonic() + 2 * pause, 2 * pause)

    def _alone(self, worker: Worker) -> list[Held]:
        return [held for held in self._holdings.held.values() if _is_of(worker, held)]

    def tell(self, worker: Worker, held: Held) -> None:
        """Report that *worker* listens; defer the report if it keeps closing its sockets."""
        was = held.quiet
        known = str(held.address) in worker.listening
        held.quiet = worker.churns and _is_of(worker, held) and not known
        if held.quiet:
            return
        others = [self._holdings.workers[number] for number in sorted(held.users)] if was else []
        for each in (*others, worker):
            self._told.listening(each, held)

    def check_rate(self, worker: Worker) -> None:
        """Raise LeaveAlone if *worker* opens sockets faster than the master can process."""
        if worker.may_open(time.monotonic()):
            return
        if not worker.fast:
            worker.fast = True
            self._told.log(
                f"{worker} binds more than {OPENS_PER_SECOND:g} new addresses a second; "
                "what it binds beyond that is not shared"
            )
        raise LeaveAlone

    def make(self, worker: Worker) -> Steps[None]:
        """Release closed sockets of *worker* once it has many. Raises LeaveAlone if it uses too many."""
        alone = self._alone(worker)
        if len(alone) < worker.sweep_at:
            return
        yield from self._sweep(worker, alone)
        left = len(self._alone(worker))
        worker.churns = worker.churns or 2 * left <= len(alone)
        worker.sweep_at = min(max(SWEEP_AT, 2 * left), SOCKETS_LIMIT)
        if left < SOCKETS_LIMIT:
            return
        if not worker.full:
            worker.full = True
            self._told.log(
                f"{worker.label} (pid {worker.pid}) uses {left} sockets; what it binds beyond that is not shared"
            )
        raise LeaveAlone

    def _sweep(self, worker: Worker, alone: list[Held]) -> Steps[None]:
        others = [other.pid for other in self._holdings.alive() if other is not worker]
        inodes = [inode for held in alone for inode in held.inodes]
        asked = {"root": worker.pid, "guardian": os.getpid(), "without": others, "inodes": inodes}
        still = set((yield from ask("open_sockets", asked)).values["open"])
        for held in alone:
            if held.users != {worker.number} or self._holdings.by_inode.get(held.inode) is not held:
                continue  # changed meanwhile
            if held.inodes.isdisjoint(still):
                self._close(held)
                if not held.quiet:
                    self._told.released(held)
            elif held.quiet:
                held.quiet = False
                self._told.listening(worker, held)


def _is_of(worker: Worker, held: Held) -> bool:
    """Return whether *worker* is the sole user of the socket, and only its bind keeps it open."""
    return held.users == {worker.number} and not (held.declared or held.asked or held.given)
