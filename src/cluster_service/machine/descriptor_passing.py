"""Non-blocking messages with descriptors over Unix sockets.

``socket.send_fds`` and ``socket.recv_fds`` ignore their flags, including MSG_DONTWAIT, so they block on a blocking
socket. Use ``send`` and ``receive`` instead: the linter forbids the other two (pyproject.toml).
"""

from __future__ import annotations

import errno
import socket
from array import array
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

SHORTAGES = frozenset((errno.ETOOMANYREFS, errno.ENOBUFS, errno.ENOMEM))
"""Errors of ``send`` after which the same message may be sent later; meanwhile the socket may poll as writable.

ETOOMANYREFS: this user has more descriptors in flight than RLIMIT_NOFILE allows, see unix(7).
"""

_WITHOUT_WAITING = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL


class Received(NamedTuple):
    """One message, or the available part of a stream. *data* is empty at the end of the stream."""

    data: bytes
    descriptors: list[int]
    truncated: bool
    """True if descriptors were lost: this process has reached its limit, or there were more than expected."""


def send(sock: socket.socket, data: bytes | memoryview, descriptors: Sequence[int] = ()) -> int:
    """Send *data* with copies of *descriptors* and return the number of bytes sent.

    Raises BlockingIOError if the peer does not read, and OSError as sendmsg(2).
    """
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", descriptors))] if descriptors else []
    return sock.sendmsg([data], rights, _WITHOUT_WAITING)


def receive(sock: socket.socket, size: int, most: int) -> Received:
    """Receive up to *size* bytes and *most* descriptors, which are not inheritable.

    Raises BlockingIOError if there is nothing to read, and OSError as recvmsg(2).
    """
    room = socket.CMSG_LEN(most * array("i").itemsize)
    data, ancillary, flags, _ = sock.recvmsg(size, room, socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC)
    descriptors = array("i")
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(content[: len(content) - len(content) % descriptors.itemsize])
    return Received(data, list(descriptors), bool(flags & socket.MSG_CTRUNC))
