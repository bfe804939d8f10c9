"""Receiving from a less trusted process, without ever receiving or closing a descriptor that it sent.

To close a descriptor can block for as long as its sender likes (SO_LINGER, a FUSE file system), and a descriptor is
closed by whichever process receives it, or closes the socket in whose queue it waits. So:

- From Linux 6.16 on, a socket refuses descriptors (SO_PASSRIGHTS): the sender gets EPERM.
- Elsewhere, and on NOTIFY_SOCKET, where descriptors have a use (sd_notify_barrier(3)), each datagram is looked at first
  (MSG_PEEK). The kernel says MSG_CTRUNC where descriptors come with it, and leaves them in the queue. Such a datagram,
  and a socket whose queue holds one, is left to the helper process (``helper``).
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
    """The user that sent it, on a socket with SO_PASSCRED."""
    descriptors: bool = False
    """Descriptors come with it, and it is still in the queue."""


def refuse_descriptors(sock: socket.socket) -> None:
    """Let the kernel refuse descriptors on *sock*, where it can."""
    with contextlib.suppress(OSError):  # before Linux 6.16
        sock.setsockopt(socket.SOL_SOCKET, SO_PASSRIGHTS, 0)


def refuses_descriptors(sock: socket.socket) -> bool:
    """Return whether the kernel refuses descriptors on *sock*."""
    try:
        return sock.getsockopt(socket.SOL_SOCKET, SO_PASSRIGHTS) == 0
    except OSError:
        return False


def receive(sock: socket.socket, limit: int) -> Received:
    """Receive a datagram of *sock*: at most *limit* bytes and one more, so that a longer one is seen to be longer.

    Raises BlockingIOError where there is none, and OSError.
    """
    # Room for the sender's credentials, where they come (and then they come first), and for nothing else: where room is
    # left the kernel delivers a descriptor.
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
    """Close *sock*, whatever waits in its queue."""
    if refuses_descriptors(sock) or _drained(sock):
        sock.close()
    else:
        helper.close(sock.detach())


def _drained(sock: socket.socket) -> bool:
    """Empty the queue of *sock*, which nothing can be added to any more. False where descriptors wait in it."""
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
    for _ in range(_MAX_QUEUED):
        try:
            if receive(sock, 1).descriptors:
                return False
        except OSError:  # it is empty
            return True
    return sock.type != socket.SOCK_DGRAM  # of a connected socket, nothing but the end is left


def discard(_values: dict[str, Any], descriptors: list[int]) -> Result:
    """Discard the oldest datagram of the first of *descriptors*, with the descriptors that came in it: a duty."""
    with socket.socket(fileno=os.dup(descriptors[0])) as sock:
        sock.recv(1, socket.MSG_DONTWAIT)
    return Result({})
