"""The stream to the master: frames out, with a bound on what waits for a master that does not read, and frames in.

Whatever is lost when a link is given up is no loss: the next master's snapshot has it.
"""

from __future__ import annotations

import dataclasses
import os
from collections import deque
from typing import TYPE_CHECKING, Any

from cluster_service.machine import passing
from cluster_service.wire import frames
from cluster_service.wire.facts import Message
from cluster_service.wire.records import to_json

if TYPE_CHECKING:
    import socket

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
        self._waiting: deque[tuple[memoryview, int | None, Any]] = deque()
        """(bytes of a fact, its descriptor, the fact if it has one)."""
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
        if descriptor is None:
            self._waiting.append((memoryview(data), None, None))
        else:
            self._waiting.append((memoryview(data), os.dup(descriptor), fact))
        self._size += len(data)
        self.flush()

    def flush(self) -> None:
        """Write what the socket takes."""
        while self._waiting:
            data, descriptor, fact = self._waiting[0]
            try:
                sent = passing.send(self.sock, data[:_CHUNK], () if descriptor is None else (descriptor,))
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if descriptor is not None and error.errno in passing.SHORTAGES:
                    self._give_up_descriptor(descriptor, fact)
                    continue
                self._discard()  # it has died: its successor will be told everything
                return
            if descriptor is not None:
                os.close(descriptor)
            self._size -= sent
            if sent == len(data):
                self._waiting.popleft()
            else:
                self._waiting[0] = (data[sent:], None, None)

    def _give_up_descriptor(self, descriptor: int, fact: Any) -> None:
        """Send the first fact without its descriptor: the master asks for it again later."""
        os.close(descriptor)
        data = frames.encode(to_json(dataclasses.replace(fact, descriptor=False)))
        self._size += len(data) - len(self._waiting[0][0])
        self._waiting[0] = (memoryview(data), None, None)

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
        for _, descriptor, _ in self._waiting:
            if descriptor is not None:
                os.close(descriptor)
        self._waiting.clear()
        self._size = 0
