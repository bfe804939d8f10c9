"""The guardian's client: orders out, facts in, over the stream that the guardian gave us.

Facts are handed over in the order in which they came. When the stream is readable, ``CHUNK`` bytes are read at a time,
and the loop serves its other descriptors between two reads. ``pump`` reads all that has arrived already: the master
calls it before it believes a clock, since a master that was stopped for a while finds time gone and the facts unread.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from cluster_service.machine import passing
from cluster_service.wire import facts, frames, orders
from cluster_service.wire.records import UnknownRecord, to_json

from . import intake

if TYPE_CHECKING:
    import asyncio
    import socket
    from collections.abc import Callable

CHUNK = 256 * 1024
PUMP_READS = 64
"""Reads of one ``pump``, at most: the guardian keeps no more than 4 MB for a master that does not read."""
DESCRIPTORS = 16
"""The most descriptors taken with one read."""
LOG_SECONDS = 10.0
"""Seconds in which one line is logged about messages that are dropped."""


class Kernel:
    """The stream to the guardian, on an asyncio loop.

    *on_fact(fact, descriptor)*: descriptor is what came with the fact (a door, a worker's board), or None. *on_lost()*:
    the guardian is gone. *on_fault()*: a fact was not taken in whole, so that what is known is not to be trusted any
    more. *log* takes a line about a message that cannot be used; it is dropped, and nothing else is.
    """

    def __init__(
        self,
        stream: socket.socket,
        loop: asyncio.AbstractEventLoop,
        on_fact: Callable[[Any, int | None], None],
        on_lost: Callable[[], None],
        on_fault: Callable[[], None],
        log: Callable[[str], None] = lambda _line: None,
    ) -> None:
        self._stream = stream
        self._loop = loop
        self._on_fact = on_fact
        self._on_lost = on_lost
        self._on_fault = on_fault
        self._log = log
        self._log_at = 0.0
        self._decoder = frames.Decoder()
        self._descriptors: list[int] = []
        self._out = bytearray()
        self.lost = False
        stream.setblocking(False)  # noqa: FBT003
        loop.add_reader(stream.fileno(), self.pump, 1)

    def send(self, order: Any) -> None:
        """Queue *order*; it is written at once as far as the guardian reads."""
        if isinstance(order, orders.Pong) and self._out:
            return  # bytes are flowing; and Pongs must not pile up behind a slow reader
        self._out += frames.encode(to_json(order))
        self._flush()

    @property
    def behind(self) -> int:
        """Bytes that wait for the guardian to read."""
        return len(self._out)

    def pump(self, reads: int = PUMP_READS) -> None:
        """Take in what has arrived, with so many reads at most."""
        try:
            self._pump(reads)
        except Exception:
            self._on_fault()
            raise

    def _pump(self, reads: int) -> None:
        for _ in range(reads):
            if self.lost:
                return
            try:
                data, descriptors, _ = passing.receive(self._stream, CHUNK, DESCRIPTORS)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                data, descriptors = b"", []
            self._descriptors += descriptors
            if not data:
                self._lose()
                return
            for message in self._decoder.feed(data):
                self._hand_over(message)
            if self._decoder.rejected:
                self._drop(f"{self._decoder.rejected} of the guardian's messages could not be decoded: dropped")
                self._decoder.rejected = 0

    def _drop(self, line: str) -> None:
        """Log *line*, unless there was one of late."""
        if self._loop.time() >= self._log_at:
            self._log_at = self._loop.time() + LOG_SECONDS
            self._log(line)

    def _hand_over(self, message: dict[str, Any]) -> None:
        try:
            fact = facts.FACTS.from_json(message)
        except UnknownRecord:
            return  # a newer guardian tells more than we know
        try:
            fact = intake.checked(fact)
        except intake.Invalid as error:
            self._drop(f"a message of worker {getattr(fact, 'worker', 0)} is invalid ({error}): dropped")
            return
        self._on_fact(fact, self._descriptor_of(fact))

    def _descriptor_of(self, fact: Any) -> int | None:
        """Return the descriptor that came with *fact*; None: none, or it was lost.

        Descriptors come in the order of their facts, but any may be missing: one that cannot be received, because this
        process has too many, is lost. So each is recognised by its inode, and those before it are closed.
        """
        if not isinstance(fact, (facts.Listening, facts.Monitoring)) or not fact.descriptor:
            return None
        for place, descriptor in enumerate(self._descriptors):
            if fact.inode in (0, os.fstat(descriptor).st_ino):
                for unclaimed in self._descriptors[:place]:
                    os.close(unclaimed)
                del self._descriptors[: place + 1]
                return descriptor
        return None

    def _flush(self) -> None:
        while self._out and not self.lost:
            try:
                sent = self._stream.send(self._out)
            except (BlockingIOError, InterruptedError):
                self._loop.add_writer(self._stream.fileno(), self._flush)
                return
            except OSError:
                self._lose()
                return
            del self._out[:sent]
        if not self.lost:
            self._loop.remove_writer(self._stream.fileno())

    def _lose(self) -> None:
        if self.lost:
            return
        self.lost = True
        self._loop.remove_reader(self._stream.fileno())
        self._loop.remove_writer(self._stream.fileno())
        self._on_lost()

    def close(self) -> None:
        """Stop listening to the guardian. What is queued has been written as far as it reads."""
        if not self.lost:
            self.lost = True
            self._loop.remove_reader(self._stream.fileno())
            self._loop.remove_writer(self._stream.fileno())
        self._stream.close()
