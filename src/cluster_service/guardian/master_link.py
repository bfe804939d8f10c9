"""The stream to the master: frames in and out, with a limit on data pending for a master that does not read.

Each worker has a small share of the queue, so that its messages fill neither the queue nor another worker's share. Data
discarded with a link is not lost: the snapshot for the next master contains it.
"""

from __future__ import annotations

import dataclasses
import os
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

from cluster_service.machine import descriptor_passing
from cluster_service.wire import framing
from cluster_service.wire.facts import ListenFailed, Message, Notified, Ready
from cluster_service.wire.framing import to_json

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

_LIMIT = 4 * 1024 * 1024 + framing.LIMIT
"""Pending bytes beyond which the master is considered hung: a snapshot may be as large as a frame.

Messages of workers are not counted.
"""
WORKER_SHARE = 1024 * 1024
"""Maximum pending bytes of one worker's messages before the next one is sent."""
WORKERS_SHARE = 16 * 1024 * 1024
"""Maximum pending bytes of all workers' messages."""
WORDS = (Message, Notified, Ready, ListenFailed)
"""Facts that a worker can produce in any number."""
_CHUNK = 256 * 1024


class _Waiting(NamedTuple):
    """Bytes of a fact that are to be written."""

    data: memoryview
    descriptor: int | None
    worker: int
    """Number of the worker to whose share it is charged; 0: none."""
    fact: Any
    """The fact, if it has a descriptor."""


class Overflow(Exception):
    """The master does not read."""


class Link:
    """Our end of the stream. *greeted*: whether the master has sent Hello; no fact is sent before."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.greeted = False
        self._decoder = framing.Decoder()
        self._waiting: deque[_Waiting] = deque()
        self._size = 0
        """Pending bytes, without messages of workers."""
        self._shares: dict[int, int] = {}
        """Pending bytes of workers' messages, by worker."""

    def __repr__(self) -> str:
        return f"<Link: {'greeted' if self.greeted else 'not greeted'}, {self._size} bytes wait>"

    @property
    def waiting(self) -> bool:
        """Whether data is pending."""
        return bool(self._waiting)

    def room(self, worker: int) -> bool:
        """Return whether one more message of *worker* may be sent."""
        return self._shares.get(worker, 0) < WORKER_SHARE and sum(self._shares.values()) < WORKERS_SHARE

    def send(self, fact: Any, descriptor: int | None = None) -> None:
        """Send *fact*, or queue it until the socket accepts it, together with *descriptor*.

        A fact in ``WORDS`` is dropped if its worker's share is full. Raises Overflow for any other fact without room.
        """
        worker = fact.worker or 0 if isinstance(fact, WORDS) else 0
        if worker and not self.room(worker):
            return
        data = framing.encode(to_json(fact))
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
        """Write pending data until the socket accepts no more."""
        while self._waiting:
            data, descriptor, worker, fact = self._waiting[0]
            try:
                sent = descriptor_passing.send(self.sock, data[:_CHUNK], () if descriptor is None else (descriptor,))
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if descriptor is not None and error.errno in descriptor_passing.SHORTAGES:
                    self._give_up_descriptor(descriptor, fact)
                    continue
                self._discard()  # the master has died: its successor gets the complete state
                return
            if descriptor is not None:
                os.close(descriptor)
            self._account(worker, -sent)
            if sent == len(data):
                self._waiting.popleft()
            else:
                self._waiting[0] = _Waiting(data[sent:], None, worker, None)

    def _give_up_descriptor(self, descriptor: int, fact: Any) -> None:
        """Send the first fact without its descriptor: the master requests it again later."""
        os.close(descriptor)
        data = framing.encode(to_json(dataclasses.replace(fact, descriptor=False)))
        self._account(0, len(data) - len(self._waiting[0].data))
        self._waiting[0] = _Waiting(memoryview(data), None, 0, None)

    def receive(self) -> Iterator[dict[str, Any]]:
        """Yield the messages that the next read completes; frames.FrameError follows the last one before invalid data.

        Raises BlockingIOError if there is no data, EOFError at the end of the stream.
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
        """Close the stream; the master reads its end."""
        self._discard()
        self.sock.close()

    def _discard(self) -> None:
        for waiting in self._waiting:
            if waiting.descriptor is not None:
                os.close(waiting.descriptor)
        self._waiting.clear()
        self._shares.clear()
        self._size = 0
