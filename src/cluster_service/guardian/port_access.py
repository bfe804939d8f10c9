"""Which sockets a worker may have, and how many."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from cluster_service.wire.addresses import Address

from .bind_requests import LeaveAlone
from .helper_client import ask
from .holdings import OPENS_PER_SECOND, SOCKETS_LIMIT, SWEEP_AT, Held

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .bind_requests import Want
    from .helper_client import Steps
    from .holdings import Holdings, Worker

_UNPRIVILEGED = "/proc/sys/net/ipv4/ip_unprivileged_port_start"
_USUAL_UNPRIVILEGED = 1024


class Refused(Exception):
    """A bind or listen that fails with errno *number*, and the reason."""

    def __init__(self, number: int, sentence: str) -> None:
        super().__init__(sentence)
        self.number = number
        self.sentence = sentence


def check(holdings: Holdings, worker: Worker, want: Want, held: Held) -> None:
    """Raise Refused unless *worker* may use *held*, as the user in *want*."""
    _check_group(holdings, worker, want, held)
    if want.address.path is not None and held.uid is not None:
        _check_path(want, connect=want.uid != held.uid)


def check_new(holdings: Holdings, worker: Worker, want: Want) -> None:
    """Raise Refused unless *worker* may open a new socket for *want*."""
    for held in holdings.held.values():
        if not held.asked and not held.door and overlap(held.address, want.address):
            _check_group(holdings, worker, want, held)
    if want.address.path is not None:
        _check_path(want, connect=True)
    elif want.address.port and not want.capable and str(want.address) not in worker.binds:
        _check_privilege(worker, want)


def _check_group(holdings: Holdings, worker: Worker, want: Want, held: Held) -> None:
    if held.door:
        raise Refused(errno.EADDRINUSE, f"{want.address} is the service's own door; bind another address")
    if held.tenant is None or (want.uid == held.uid and is_free(holdings, held)):
        return
    if held.tenant != worker.tenant and not _partners(holdings, worker.tenant, held.tenant):
        there = "" if str(held.address) == str(want.address) else f" ({held.address})"
        raise Refused(
            errno.EADDRINUSE,
            f"{want.address} is held by group {held.tenant}{there}; bind another address, or to share it, set "
            f'share_with = ["{held.tenant}"] for group {worker.tenant}',
        )
    users = {held.uid} if held.tenant != worker.tenant else {held.uid, worker.uid}
    if held.uid is not None and want.uid not in users:
        raise Refused(
            errno.EACCES,
            f"{want.address} is held by group {held.tenant} as user {held.uid}; user {want.uid} may not share it",
        )


def is_free(holdings: Holdings, held: Held) -> bool:
    """Return whether the group of *held* has no workers, and only a worker assigned the socket to it."""
    if held.declared or held.given is not None:
        return False
    return not any(worker.tenant == held.tenant for worker in holdings.alive())


def _partners(holdings: Holdings, one: str, other: str) -> bool:
    return other in holdings.partners.get(one, ()) or one in holdings.partners.get(other, ())


def _check_path(want: Want, *, connect: bool) -> None:
    if want.path_error or not want.creates or (connect and not want.connects):
        what = "its directory is" if not want.creates else "the file is"
        raise Refused(errno.EACCES, f"{want.address}: permission denied ({what} not writable for user {want.uid})")


def _check_privilege(worker: Worker, want: Want) -> None:
    first = _first_unprivileged()
    if want.address.port >= first:
        return
    group = worker.tenant or "web"
    raise Refused(
        errno.EACCES,
        f"{want.address}: permission denied (ports below {first} need root or CAP_NET_BIND_SERVICE; "
        f'to give this one to user {want.uid}, set bind = ["{want.address}"] for group {group})',
    )


def _first_unprivileged() -> int:
    try:
        with open(_UNPRIVILEGED, encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):
        return _USUAL_UNPRIVILEGED


def overlap(one: Address, other: Address) -> bool:
    """Return whether sockets bound to the two addresses could receive the same connection or datagram."""
    if one.kind != other.kind or one.kind == "unix" or one.port != other.port:
        return False
    return any(
        family == other_family and (host == other_host or _ANY & {host, other_host})
        for family, host in _hosts(one)
        for other_family, other_host in _hosts(other)
    )


_ANY = {"0.0.0.0", "::"}


def _hosts(address: Address) -> list[tuple[int, str]]:
    """Return the family and host for each kind of client: a dual-stack socket accepts IPv4 too."""
    host = address.host.partition("%")[0]
    if host.startswith("::ffff:"):
        return [(int(socket.AF_INET), host.removeprefix("::ffff:"))]
    return [(address.family, host), *([(int(socket.AF_INET), "0.0.0.0")] if address.dual else [])]


_LOOPBACK = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}


def key_of(worker: Worker, asked: str) -> str:
    """Return the key that identifies a socket of a private worker."""
    return f"{worker.number} {asked}"


def open_for(worker: Worker, address: Address, kind: int, options: Sequence[Any]) -> Steps[Held]:
    """Open the socket that *worker* gets in place of *address*. Raises OSError."""
    host = _LOOPBACK.get(socket.AddressFamily(address.family), "")
    where = [address.kind, host or "@", address.port if host else 0, False]
    answer = yield from ask("open", {"address": where, "type": kind, "options": options, "private": True})
    (descriptor,) = answer.descriptors
    found = answer.values
    own = Address(address.kind, found.get("host", host), found["port"])
    asked = str(address)
    sock = socket.socket(fileno=descriptor)
    return Held(own, key_of(worker, asked), sock, found["inode"], users={worker.number}, asked=asked)


FIRST_LOOK = 3.0
"""Seconds until the first check of a worker that got a socket."""


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
