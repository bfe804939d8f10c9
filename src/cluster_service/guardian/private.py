"""Private sockets of one worker: for a preview worker that is tested before clients reach it.

Every address that it binds is replaced by a free port on the loopback interface, of the same family and kind; a Unix
socket by one with an abstract name that the kernel chooses (unix(7), autobind). The same address yields the same
socket.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

from cluster_service.wire.addresses import Address

from .holdings import Held
from .steps import ask

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .holdings import Worker
    from .steps import Steps

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
