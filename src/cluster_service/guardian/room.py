"""Sockets that a program binds and closes again: they are released, and what is in use has a limit.

A resolver with random source ports or FTP with its data connections would make the service hold thousands. So from
``SWEEP_AT`` sockets that a worker has alone, those are released that none of its processes has open; and what it binds
beyond ``SOCKETS_LIMIT`` in use is left to the kernel. A worker that does so is not worth two lines in the log for each
socket: its new ones are reported once they have lasted.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from .holdings import SOCKETS_LIMIT, SWEEP_AT
from .steps import ask
from .wants import LeaveAlone

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


class Room:
    """What each worker has alone. *close* closes a socket."""

    def __init__(self, holdings: Holdings, told: Told, close: Callable[[Held], None]) -> None:
        self._holdings = holdings
        self._told = told
        self._close = close

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

    def make(self, worker: Worker) -> Steps[None]:
        """Release what *worker* has closed, once it has many sockets. Raises LeaveAlone where it uses too many."""
        alone = [held for held in self._holdings.held.values() if _is_of(worker, held)]
        if len(alone) < worker.sweep_at:
            return
        yield from self._sweep(worker, alone)
        left = sum(_is_of(worker, held) for held in self._holdings.held.values())
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
        inodes = [held.inode for held in alone]
        asked = {"root": worker.pid, "guardian": os.getpid(), "without": others, "inodes": inodes}
        still = set((yield from ask("open_sockets", asked)).values["open"])
        worker.churns = worker.churns or 2 * len(still) <= len(alone)
        for held in alone:
            if held.users != {worker.number} or self._holdings.by_inode.get(held.inode) is not held:
                continue  # something has happened to it meanwhile
            if held.inode not in still:
                self._close(held)
                if not held.quiet:
                    self._told.released(held)
            elif held.quiet:
                held.quiet = False
                self._told.listening(worker, held)


def _is_of(worker: Worker, held: Held) -> bool:
    """Whether nobody but *worker* keeps the socket, and nothing but its binding it."""
    return held.users == {worker.number} and not (held.declared or held.asked or held.given)
