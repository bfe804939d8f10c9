"""The service manager's end of sd_notify(3): a datagram socket on which a service tells how it is."""

from __future__ import annotations

import os
import select
import socket
import time
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

DEADLINE = 40.0
"""Seconds to wait for any message."""

Message = dict[str, str]


class Manager:
    """Hears what a service says. *path*: of its socket; None: an abstract name."""

    def __init__(self, path: Path | None = None) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.path = path
        name = f"manager-{os.urandom(8).hex()}"
        self.socket.bind(f"\0{name}" if path is None else str(path))
        self.name = f"@{name}" if path is None else str(path)
        self.heard: list[Message] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()
        if self.path is not None:
            self.path.unlink()

    def next(self) -> Message:
        """Wait for the next message."""
        assert select.select([self.socket], [], [], DEADLINE)[0], f"nothing more came; it was told {self.heard}"
        message = dict(line.split("=", 1) for line in self.socket.recv(65536).decode().splitlines())
        self.heard.append(message)
        return message

    def until(self, fits: Callable[[Message], object]) -> Message:
        """Wait for a message that *fits*."""
        end = time.monotonic() + DEADLINE
        while time.monotonic() < end:
            message = self.next()
            if fits(message):
                return message
        raise AssertionError(f"it was told {self.heard}")

    def told(self, name: str, value: str | None = None) -> Message:
        """Wait for a message that holds *name*, with that value."""
        return self.until(lambda message: name in message and value in (None, message[name]))

    def said(self, name: str) -> list[str]:
        """The values of *name* so far."""
        return [message[name] for message in self.heard if name in message]
