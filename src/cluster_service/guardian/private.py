"""Sockets of one worker's own: what a worker gets that is to be tried before any client reaches it.

Whatever it binds becomes a free port of the loopback interface, of the same family and kind; a Unix socket becomes one
with an abstract name that the kernel chooses (unix(7), autobind). The same address asked for twice is the same socket.
"""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

from cluster_service.wire.addresses import Address

from . import opening
from .holdings import Held

if TYPE_CHECKING:
    from .holdings import Worker

_LOOPBACK = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}


def key_of(worker: Worker, asked: str) -> str:
    """What makes two sockets of a private worker the same."""
    return f"{worker.number} {asked}"


def open_for(worker: Worker, address: Address, kind: int, source: socket.socket | None) -> Held:
    """Open the socket that *worker* gets in place of *address*. Raises OSError."""
    host = _LOOPBACK.get(socket.AddressFamily(address.family), "")
    sock = opening.new_socket(Address(address.kind, host or address.host), kind)
    try:
        if source is not None:
            opening.copy_options(source, sock)
        sock.bind((host, 0) if host else b"")
    except OSError:
        sock.close()
        raise
    name = sock.getsockname()
    own = Address(address.kind, host, name[1]) if host else Address("unix", "@" + os.fsdecode(name[1:]))
    asked = str(address)
    inode = os.fstat(sock.fileno()).st_ino
    return Held(own, key_of(worker, asked), sock, inode, users={worker.number}, asked=asked)
