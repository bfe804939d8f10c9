"""Permission to use a socket: a single decision for all the ways in which a worker gets one.

A worker gets a shared socket only if its own user could have opened it and the owner of the service permits it:

- within its group of workers, or of a group named by ``share_with`` in the configuration of either group;
- as the user who bound it, or as the user of its group; for a socket named by the configuration or by a service
  manager, as the user of the group for which it was named;
- at a path, only if that user may search all its directories and create files in the last one; at a privileged port,
  only with CAP_NET_BIND_SERVICE;
- and not if the address overlaps with a socket that it may not use (``127.0.0.1`` takes connections from ``0.0.0.0``).
"""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cluster_service.wire.addresses import Address

    from .holdings import Held, Holdings, Worker
    from .wants import Want

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
