"""Receiving from a less trusted process, without ever receiving or closing a descriptor that it sent.

Closing a descriptor can block for as long as its sender likes (SO_LINGER, a FUSE file system). A descriptor is closed
by the process that receives it, or that closes the socket in whose queue it is. Therefore:

- From Linux 6.16 on, a socket refuses descriptors (SO_PASSRIGHTS): the sender gets EPERM.
- On older kernels, and on NOTIFY_SOCKET, where descriptors are legitimate (sd_notify_barrier(3)), each datagram is
  first peeked at (MSG_PEEK). The kernel sets MSG_CTRUNC if it carries descriptors, and leaves them in the queue. Such a
  datagram, and a socket with one in its queue, is handed over to the helper process (``helper``).
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from typing import TYPE_CHECKING, Any, NamedTuple

from .apart import Result

if TYPE_CHECKING:
    from .helper import Helper

SO_PASSRIGHTS = 83  # asm-generic/socket.h
_CREDENTIALS = struct.Struct("=iII")  # struct ucred of sys/socket.h: pid, uid, gid
_CREDENTIALS_ROOM = socket.CMSG_LEN(_CREDENTIALS.size)
_MAX_QUEUED = 2048
"""More datagrams than the queue of a Unix socket holds."""
DISCARD = "discard"
"""The name of the helper's duty ``discard``."""


class Received(NamedTuple):
    """One datagram."""

    data: bytes
    uid: int | None
    """The sender's user, on a socket with SO_PASSCRED."""
    descriptors: bool = False
    """Whether it carries descriptors and is still in the queue."""


def refuse_descriptors(sock: socket.socket) -> None:
    """Make the kernel refuse descriptors on *sock*, if it supports that."""
    with contextlib.suppress(OSError):  # before Linux 6.16
        sock.setsockopt(socket.SOL_SOCKET, SO_PASSRIGHTS, 0)


def refuses_descriptors(sock: socket.socket) -> bool:
    """Return whether the kernel refuses descriptors on *sock*."""
    try:
        return sock.getsockopt(socket.SOL_SOCKET, SO_PASSRIGHTS) == 0
    except OSError:
        return False


def receive(sock: socket.socket, limit: int) -> Received:
    """Receive a datagram from *sock*: at most *limit* bytes and one more, so that longer ones are detected.

    Raises BlockingIOError if there is none, and OSError.
    """
    # Room for the sender's credentials if enabled (they come first), and for nothing else: the kernel would use any
    # remaining room to deliver a descriptor.
    room = _CREDENTIALS_ROOM if sock.getsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED) else 0
    if refuses_descriptors(sock):
        data, ancillary, _flags, _address = sock.recvmsg(limit + 1, room, socket.MSG_DONTWAIT)
        return Received(data, _sender(ancillary))
    data, ancillary, flags, _address = sock.recvmsg(limit + 1, room, socket.MSG_DONTWAIT | socket.MSG_PEEK)
    if flags & socket.MSG_CTRUNC:
        return Received(data, _sender(ancillary), descriptors=True)
    sock.recv(1, socket.MSG_DONTWAIT)
    return Received(data, _sender(ancillary))


def _sender(ancillary: list[tuple[int, int, bytes]]) -> int | None:
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
            _pid, uid, _gid = _CREDENTIALS.unpack_from(data)
            return int(uid)
    return None


def close_socket(helper: Helper, sock: socket.socket) -> None:
    """Close *sock*, whatever is in its queue."""
    if refuses_descriptors(sock) or _drained(sock):
        sock.close()
    else:
        helper.close(sock.detach())


def _drained(sock: socket.socket) -> bool:
    """Empty the queue of *sock*, which accepts no more data. Return False if it contains descriptors."""
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
    for _ in range(_MAX_QUEUED):
        try:
            if receive(sock, 1).descriptors:
                return False
        except OSError:  # it is empty
            return True
    return sock.type != socket.SOCK_DGRAM  # a connected socket has nothing left but its end of file


def discard(_values: dict[str, Any], descriptors: list[int]) -> Result:
    """Discard the oldest datagram of the first of *descriptors*, with its descriptors: a duty of the helper."""
    with socket.socket(fileno=os.dup(descriptors[0])) as sock:
        sock.recv(1, socket.MSG_DONTWAIT)
    return Result({})
