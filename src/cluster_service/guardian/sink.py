"""One output of the log writer: queues lines, writes them without blocking, and reports lost lines."""

from __future__ import annotations

import os
import select
import socket
import stat
from collections import deque
from typing import Any

from cluster_service.machine import shortage

CHUNK = 64 * 1024
_CAREFUL = 4096  # PIPE_BUF: a pipe that polls writable accepts this much without blocking


class Sink:
    """One output. It never blocks: data not yet accepted is queued (``size`` bytes)."""

    def __init__(self, descriptor: int) -> None:
        self._original = descriptor
        self._waiting: deque[bytes] = deque()
        self.size = 0
        self.stuck = False
        self._lost = 0
        self._why = ""
        self._midline = False
        mode = os.fstat(descriptor).st_mode
        self.file = stat.S_ISREG(mode)
        self.colour = (
            os.isatty(descriptor) and not os.environ.get("NO_COLOR") and os.environ.get("TERM", "dumb") != "dumb"
        )
        self.descriptor, self._write = self._writer(descriptor, mode)

    def _writer(self, descriptor: int, mode: int) -> tuple[int, Any]:
        """Return a non-blocking write function that does not set O_NONBLOCK on a shared open file description."""
        if self.file:
            return descriptor, os.write
        if stat.S_ISSOCK(mode):
            sock = socket.socket(fileno=os.dup(descriptor))
            return descriptor, lambda _descriptor, data: sock.send(data, socket.MSG_DONTWAIT)
        try:
            own = os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        except OSError:  # for example, another user's terminal
            return descriptor, self._write_carefully
        return own, os.write

    def _write_carefully(self, descriptor: int, data: bytes) -> int:
        poll = select.poll()
        poll.register(descriptor, select.POLLOUT)
        if not poll.poll(0):
            raise BlockingIOError
        return os.write(descriptor, data[:_CAREFUL])

    def has_grown(self, most: int) -> bool:
        """Return whether this is a file of at least *most* bytes; 0: unlimited."""
        return self.file and 0 < most <= os.fstat(self.descriptor).st_size

    def put(self, line: bytes) -> None:
        """Queue one or more lines; *line* ends in a newline."""
        self._waiting.append(line)
        self.size += len(line)

    def skip(self) -> None:
        """Count a line that is dropped because too much is pending."""
        self._lost += 1
        self._why = "the output was too slow"

    def flush(self) -> None:
        """Write queued data until the output accepts no more."""
        self.stuck = False
        while self._waiting:
            data = self._waiting[0] if len(self._waiting) == 1 else self._gather()
            if self._lost:
                data = self._confession() + data
            try:
                written = self._write(self.descriptor, data)
            except (BlockingIOError, InterruptedError):
                self.stuck = True
                return
            except OSError as error:
                self._lose(error)
                return
            self._wrote(data, written)

    def _gather(self) -> bytes:
        """Join the first queued lines, so that many short lines need a single system call."""
        pieces = []
        size = 0
        while self._waiting and size < CHUNK:
            pieces.append(self._waiting.popleft())
            size += len(pieces[-1])
        self._waiting.appendleft(b"".join(pieces))
        return self._waiting[0]

    def _wrote(self, data: bytes, written: int) -> None:
        self._lost = 0
        self._waiting.popleft()
        rest = data[written:]
        if rest:
            self._waiting.appendleft(rest)
        self.size = sum(map(len, self._waiting))
        self._midline = written > 0 and data[written - 1 : written] != b"\n"

    def _lose(self, error: OSError) -> None:
        self._lost += sum(piece.count(b"\n") for piece in self._waiting)
        self._why = shortage.explain(error)
        self._waiting.clear()
        self.size = 0

    def _confession(self) -> bytes:
        text = f"[cservice] {self._lost} lines before this one could not be written: {self._why}\n"
        return (b"\n" if self._midline else b"") + text.encode()

    def replaces(self, other: Sink) -> None:
        """Replace *other*, and report the lines lost there."""
        self._lost, self._why = other._lost, other._why

    def close(self) -> None:
        """Close the descriptor of a log file."""
        for descriptor in {self._original, self.descriptor}:
            os.close(descriptor)
