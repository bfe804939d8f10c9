"""What the log writer has not taken yet: bytes in the workers' pipes, messages in its socket, and the service's lines.

At the end of the service the guardian waits for a writer only while this changes.
"""

from __future__ import annotations

import fcntl
from array import array
from typing import TYPE_CHECKING, Any, NamedTuple

from .apart import Result

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterable

HALF_FULL = "half_full"
"""The name of the helper's duty ``find_half_full``."""


class Left(NamedTuple):
    """What the writer has not taken, and when it last answered."""

    lines: int
    """Lines of the service that were not sent."""
    output: int
    """Bytes in the pipes."""
    requests: int
    """Bytes in the socket, with what the kernel needs for them."""
    heard: float

    def sentence(self) -> str:
        """Return what is lost if the writer takes nothing more; empty if that is nothing."""
        parts = [
            f"{self.lines} lines of the service" if self.lines else "",
            f"{self.output} bytes of output" if self.output else "",
            "messages that it had not received" if self.requests else "",
        ]
        return " and ".join(part for part in parts if part)


class Unread:
    """Whether what is left still changes."""

    def __init__(self) -> None:
        self._last: Left | None = None
        self._since = 0.0

    def changes(self, now_left: Left, now: float, patience: float) -> bool:
        """Return whether it has changed in the last *patience* seconds, by this call and those before."""
        if now_left != self._last:
            self._last, self._since = now_left, now
        return now - self._since < patience


def left(lines: int, pipes: Iterable[int], sock: socket.socket | None, heard: float) -> Left:
    """Return what is left now. *heard*: when the writer last answered. Only for pipes of processes that have ended."""
    import termios  # noqa: PLC0415 - rarely needed, and the guardian is to be small

    requests = _count(sock.fileno(), termios.TIOCOUTQ) if sock is not None else 0  # unix(7): SIOCOUTQ
    return Left(lines, sum(_count(pipe, termios.FIONREAD) for pipe in pipes), requests, heard)


def find_half_full(_values: dict[str, Any], pipes: list[int]) -> Result:
    """Return whether one of *pipes* is at least half full: a duty of the helper."""
    return Result({"found": any(map(_is_half_full, pipes))})


def _is_half_full(pipe: int) -> bool:
    import termios  # noqa: PLC0415 - as above

    try:
        return 2 * _count(pipe, termios.FIONREAD) >= fcntl.fcntl(pipe, fcntl.F_GETPIPE_SZ)
    except OSError:
        return False


def _count(descriptor: int, request: int) -> int:
    number = array("i", [0])
    try:
        fcntl.ioctl(descriptor, request, number)
    except OSError:
        return 0
    return number[0]
