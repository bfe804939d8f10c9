"""The stream to the master: frames out, with a bound on what waits for a master that does not read, and frames in.

Whatever is lost when a link is given up is no loss: the next master's snapshot has it.
"""

from __future__ import annotations

import os
import socket
from collections import deque
from typing import Any

from cluster_service.wire import frames
from cluster_service.wire.facts import Message
from cluster_service.wire.records import to_json

_LIMIT = 4 * 1024 * 1024 + frames.LIMIT
"""Bytes that may wait for the master beyond which it is taken for hung: a snapshot may be as large as a frame."""
_MESSAGE_LIMIT = 1024 * 1024
"""Bytes beyond which workers' messages are dropped: a worker that talks too much must not cost the master its life."""
_CHUNK = 256 * 1024


class Overflow(Exception):
    """The master does not read."""


class Link:
    """Our end of the stream. *greeted*: whether the master has said hello; it is told nothing before."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)  # noqa: FBT003 - positional only
        self.sock = sock
        self.greeted = False
        self.dropped = 0
        """Workers' messages that were dropped since the last that was not."""
        self._decoder = frames.Decoder()
        self._waiting: deque[tuple[memoryview, int | None]] = deque()
        self._size = 0

    def __repr__(self) -> str:
        return f"<Link: {'greeted' if self.greeted else 'not greeted'}, {self._size} bytes wait>"

    @property
    def waiting(self) -> bool:
        """Whether there is something to be written as soon as the socket takes it."""
        return bool(self._waiting)

    def send(self, fact: Any, descriptor: int | None = None) -> None:
        """Send *fact*, or keep it until the socket takes it; *descriptor* rides with it. Raises Overflow."""
        if isinstance(fact, Message) and self._size > _MESSAGE_LIMIT:
            self.dropped += 1
            return
        data = frames.encode(to_json(fact))
        if self._size + len(data) > _LIMIT:
            raise Overflow(f"{self._size} bytes wait to be read")
        self._waiting.append((memoryview(data), None if descriptor is None else os.dup(descriptor)))
        self._size += len(data)
        self.flush()

    def flush(self) -> None:
        """Write what the socket takes."""
        while self._waiting:
            data, descriptor = self._waiting[0]
            try:
                if descriptor is None:
                    sent = self.sock.send(data[:_CHUNK])
                else:
                    sent = socket.send_fds(self.sock, [data[:_CHUNK]], [descriptor])
                    os.close(descriptor)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:  # it has died: its successor will be told everything
                self._discard()
                return
            self._size -= sent
            if sent == len(data):
                self._waiting.popleft()
            else:
                self._waiting[0] = (data[sent:], None)

    def receive(self) -> list[dict[str, Any]]:
        """Return the messages that the next read completes. Raises frames.FrameError on garbage.

        Raises BlockingIOError when there is nothing to read, EOFError when there will be nothing any more.
        """
        try:
            data = self.sock.recv(_CHUNK)
        except (BlockingIOError, InterruptedError):
            raise BlockingIOError from None
        except OSError:
            data = b""
        if not data:
            raise EOFError
        return self._decoder.feed(data)

    def close(self) -> None:
        """Let the master see the end of the stream."""
        self._discard()
        self.sock.close()

    def _discard(self) -> None:
        for _, descriptor in self._waiting:
            if descriptor is not None:
                os.close(descriptor)
        self._waiting.clear()
        self._size = 0
