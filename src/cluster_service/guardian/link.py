"""The stream to the master: frames out, with a bound on what waits for a master that does not read, and frames in.

Each worker has a small share of what may wait, so that its messages can fill neither the queue nor another's share.
Whatever is lost when a link is given up is no loss: the next master's snapshot has it.
"""

from __future__ import annotations

import dataclasses
import os
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

from cluster_service.machine import passing
from cluster_service.wire import frames
from cluster_service.wire.facts import ListenFailed, Message, Notified, Ready
from cluster_service.wire.records import to_json

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

_LIMIT = 4 * 1024 * 1024 + frames.LIMIT
"""Bytes that may wait for the master beyond which it is taken for hung: a snapshot may be as large as a frame. Workers'
messages do not count."""
WORKER_SHARE = 1024 * 1024
"""Bytes of one worker's messages that may wait before the next one is sent."""
WORKERS_SHARE = 16 * 1024 * 1024
"""As many of all workers together."""
WORDS = (Message, Notified, Ready, ListenFailed)
"""Facts of which a worker decides how many there are."""
_CHUNK = 256 * 1024


class _Waiting(NamedTuple):
    """Bytes of a fact that are to be written."""

    data: memoryview
    descriptor: int | None
    worker: int
    """Whose share they count towards; 0: to none."""
    fact: Any
    """The fact, where a descriptor comes with it."""


class Overflow(Exception):
    """The master does not read."""


class Link:
    """Our end of the stream. *greeted*: whether the master has said hello; it is told nothing before."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)  # noqa: FBT003 - positional only
        self.sock = sock
        self.greeted = False
        self._decoder = frames.Decoder()
        self._waiting: deque[_Waiting] = deque()
        self._size = 0
        """Bytes that wait, but for those of workers' messages."""
        self._shares: dict[int, int] = {}
        """Bytes of workers' messages that wait, by worker."""

    def __repr__(self) -> str:
        return f"<Link: {'greeted' if self.greeted else 'not greeted'}, {self._size} bytes wait>"

    @property
    def waiting(self) -> bool:
        """Whether there is something to be written as soon as the socket takes it."""
        return bool(self._waiting)

    def room(self, worker: int) -> bool:
        """Return whether one more message of *worker* may be sent."""
        return self._shares.get(worker, 0) < WORKER_SHARE and sum(self._shares.values()) < WORKERS_SHARE

    def send(self, fact: Any, descriptor: int | None = None) -> None:
        """Send *fact*, or keep it until the socket takes it; *descriptor* rides with it.

        A fact of ``WORDS`` is dropped where its worker has no room. Raises Overflow for any other that has none.
        """
        worker = fact.worker or 0 if isinstance(fact, WORDS) else 0
        if worker and not self.room(worker):
            return
        data = frames.encode(to_json(fact))
        if not worker and self._size + len(data) > _LIMIT:
            raise Overflow(f"{self._size} bytes wait to be read")
        copy = None if descriptor is None else os.dup(descriptor)
        self._waiting.append(_Waiting(memoryview(data), copy, worker, None if copy is None else fact))
        self._account(worker, len(data))
        self.flush()

    def _account(self, worker: int, size: int) -> None:
        if not worker:
            self._size += size
            return
        self._shares[worker] = self._shares.get(worker, 0) + size
        if not self._shares[worker]:
            del self._shares[worker]

    def flush(self) -> None:
        """Write what the socket takes."""
        while self._waiting:
            data, descriptor, worker, fact = self._waiting[0]
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
            self._account(worker, -sent)
            if sent == len(data):
                self._waiting.popleft()
            else:
                self._waiting[0] = _Waiting(data[sent:], None, worker, None)

    def _give_up_descriptor(self, descriptor: int, fact: Any) -> None:
        """Send the first fact without its descriptor: the master asks for it again later."""
        os.close(descriptor)
        data = frames.encode(to_json(dataclasses.replace(fact, descriptor=False)))
        self._account(0, len(data) - len(self._waiting[0].data))
        self._waiting[0] = _Waiting(memoryview(data), None, 0, None)

    def receive(self) -> Iterator[dict[str, Any]]:
        """Return the messages that the next read completes; frames.FrameError is raised after the last before garbage.

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
        for waiting in self._waiting:
            if waiting.descriptor is not None:
                os.close(waiting.descriptor)
        self._waiting.clear()
        self._shares.clear()
        self._size = 0
