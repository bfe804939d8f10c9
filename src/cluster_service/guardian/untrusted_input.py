"""Input from less trusted processes: within rate limits, without ever receiving or closing a descriptor of theirs."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from typing import TYPE_CHECKING, Any, NamedTuple

from .forked_child import Result

if TYPE_CHECKING:
    from .helper_client import Helper

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


MESSAGES_PER_SECOND, MESSAGE_BURST = 2_000.0, 10_000.0
BYTES_PER_SECOND, BYTE_BURST = 2.0 * 1024 * 1024, 16.0 * 1024 * 1024
PROCESSOR_SHARE, PROCESSOR_BURST = 0.25, 2.0
"""Rate in CPU seconds per second, and burst in CPU seconds."""
DESCRIPTOR_COST = 200
"""Number of messages that one datagram with descriptors counts as, since closing them requires another process."""


class Allowance:
    """Remaining allowance of one worker. Times are monotonic seconds."""

    def __init__(self, now: float) -> None:
        self._messages, self._bytes, self._seconds, self._at = MESSAGE_BURST, BYTE_BURST, PROCESSOR_BURST, now

    def __repr__(self) -> str:
        return f"<Allowance: {self._messages:.0f} messages, {self._bytes:.0f} bytes>"

    def take(self, size: int, now: float, messages: int = 1) -> None:
        """Charge *messages* received messages of *size* bytes in all."""
        self._refill(now)
        self._messages -= messages
        self._bytes -= size

    def spend(self, seconds: float) -> None:
        """Charge *seconds* of CPU time."""
        self._seconds -= seconds

    def wait(self, now: float) -> float:
        """Return the seconds until the next message may be read; 0: now."""
        self._refill(now)
        return max(
            0.0,
            (1.0 - self._messages) / MESSAGES_PER_SECOND,
            -self._bytes / BYTES_PER_SECOND,
            -self._seconds / PROCESSOR_SHARE,
        )

    def _refill(self, now: float) -> None:
        passed = max(0.0, now - self._at)
        self._messages = min(MESSAGE_BURST, self._messages + passed * MESSAGES_PER_SECOND)
        self._bytes = min(BYTE_BURST, self._bytes + passed * BYTES_PER_SECOND)
        self._seconds = min(PROCESSOR_BURST, self._seconds + passed * PROCESSOR_SHARE)
        self._at = now
