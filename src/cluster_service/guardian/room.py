"""Sockets that a program binds and closes again: they are released, and what is in use has a limit.

A resolver with random source ports or FTP with its data connections would make the service hold thousands. So from
``SWEEP_AT`` sockets that a worker has alone, those are released that none of its processes has open; and what it binds
beyond ``SOCKETS_LIMIT`` in use, or faster than ``OPENS_PER_SECOND``, is left to the kernel. New sockets of a worker
that closes many are reported only once they have lasted: the log would have two lines for each.

Fewer are looked at ``FIRST_LOOK`` seconds after the worker was given one, and again after twice the time as long as it
has any alone: a socket that was closed is held for about as long as it was open, and an idle service rests. A worker
that was told to stop is left alone: its successor needs the ports that it stops using.
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
"""Seconds after which a worker that was given a socket is looked at."""

if TYPE_CHECKING:
    from collections.abc import Callable

    from cluster_service.wire.addresses import Address

    from .holdings import Held, Holdings, Worker
    from .steps import Steps


class Told(NamedTuple):
    """Where the news goes."""

    bound: Callable[[Worker, Held], None]
    """It has bound a socket that listens already: it may never ask for more (gunicorn looks at SO_ACCEPTCONN first)."""
    listening: Callable[[Worker, Held], None]
    refused: Callable[[Worker, Address, str], None]
    released: Callable[[Held], None]
    """A socket was closed that no process had open any more."""
    log: Callable[[str], None]


class Look(NamedTuple):
    """When a worker is looked at, in monotonic seconds, and after what pause."""

    at: float
    pause: float


class Room:
    """What each worker has alone. *close* closes a socket, *start* runs steps."""

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
        """*worker* was given a socket, which it may close soon."""
        at = time.monotonic() + FIRST_LOOK
        known = self._looks.get(worker.number)
        self._looks[worker.number] = Look(at if known is None else min(at, known.at), FIRST_LOOK)

    def deadline(self) -> float | None:
        """Return when ``tick`` has something to do."""
        return min((look.at for look in self._looks.values()), default=None)

    def tick(self, now: float) -> None:
        """Look at the workers for which it is time."""
        for number, look in list(self._looks.items()):
            if now >= look.at:
                del self._looks[number]
                self._start(lambda number=number, pause=look.pause: self._look(number, pause))  # type: ignore[misc]

    def _look(self, number: int, pause: float) -> Steps[None]:
        """Release what a worker has closed, and look again later if it has any left."""
        worker = self._holdings.workers.get(number)
        if worker is None or worker.exited or worker.signals:
            return
        alone = self._alone(worker)
        if alone:
            with contextlib.suppress(OSError):  # the helper could not: later
                yield from self._sweep(worker, alone)
        if not worker.exited and self._alone(worker) and number not in self._looks:
            self._looks[number] = Look(time.monotonic() + 2 * pause, 2 * pause)

    def _alone(self, worker: Worker) -> list[Held]:
        return [held for held in self._holdings.held.values() if _is_of(worker, held)]

    def tell(self, worker: Worker, held: Held) -> None:
        """Report that *worker* listens; later, where it keeps closing what it opens."""
        was = held.quiet
        known = str(held.address) in worker.listening
        held.quiet = worker.churns and _is_of(worker, held) and not known
        if held.quiet:
            return
        others = [self._holdings.workers[number] for number in sorted(held.users)] if was else []
        for each in (*others, worker):
            self._told.listening(each, held)

    def check_rate(self, worker: Worker) -> None:
        """Raises LeaveAlone where *worker* opens sockets faster than the master has time to hear of."""
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
        """Release what *worker* has closed, once it has many sockets. Raises LeaveAlone where it uses too many."""
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
                continue  # something has happened to it meanwhile
            if held.inodes.isdisjoint(still):
                self._close(held)
                if not held.quiet:
                    self._told.released(held)
            elif held.quiet:
                held.quiet = False
                self._told.listening(worker, held)


def _is_of(worker: Worker, held: Held) -> bool:
    """Whether nobody but *worker* keeps the socket, and nothing but its binding it."""
    return held.users == {worker.number} and not (held.declared or held.asked or held.given)
