"""Data that the log writer has not read yet: bytes in pipes, messages in its socket, and the service's lines.

When the service ends, the guardian waits for a writer only while this data changes.
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
    """The data that the writer has not read, and when it last answered."""

    lines: int
    """Lines of the service that were not sent."""
    output: int
    """Bytes in the pipes."""
    requests: int
    """Bytes in the socket, including the kernel's overhead."""
    heard: float

    def sentence(self) -> str:
        """Return what is lost if the writer reads no more; empty if nothing is."""
        parts = [
            f"{self.lines} lines of the service" if self.lines else "",
            f"{self.output} bytes of output" if self.output else "",
            "messages that it had not received" if self.requests else "",
        ]
        return " and ".join(part for part in parts if part)


class Unread:
    """Detects whether the unread data still changes."""

    def __init__(self) -> None:
        self._last: Left | None = None
        self._since = 0.0

    def changes(self, now_left: Left, now: float, patience: float) -> bool:
        """Return whether the data has changed within the last *patience* seconds, judged by all calls so far."""
        if now_left != self._last:
            self._last, self._since = now_left, now
        return now - self._since < patience


def left(lines: int, pipes: Iterable[int], sock: socket.socket | None, heard: float) -> Left:
    """Return the current data. *heard*: last answer of the writer. Only for pipes of processes that have ended."""
    import termios  # noqa: PLC0415 - rarely needed, and saves the guardian memory

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
