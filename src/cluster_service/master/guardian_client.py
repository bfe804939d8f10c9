"""The guardian's client: sends orders and receives facts, within limits, and requests sockets."""

from __future__ import annotations

import asyncio
import dataclasses
import os
from typing import TYPE_CHECKING, Any

from cluster_service.machine import descriptor_passing
from cluster_service.wire import facts, framing, orders, validation
from cluster_service.wire.framing import UnknownRecord, to_json
from cluster_service.wire.validation import Invalid

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

CHUNK = 256 * 1024
PUMP_READS = 64
"""Maximum reads of one ``pump``: the guardian keeps no more than 4 MB for a master that does not read."""
DESCRIPTORS = 16
"""Maximum descriptors received with one read."""
LOG_SECONDS = 10.0
"""Interval, in seconds, in which at most one line about dropped messages is logged."""


class Kernel:
    """The stream to the guardian, on an asyncio event loop.

    *on_fact(fact, descriptor)*: *descriptor* is the one sent with the fact (an endpoint, or a worker's board), or None.
    *on_lost()*: the guardian is gone. *on_fault()*: a fact was only partly handled, so the state of the master can no
    longer be trusted. *log* receives a line about each invalid message; only that message is dropped.
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
        self._decoder = framing.Decoder()
        self._descriptors: list[int] = []
        self._out = bytearray()
        self.lost = False
        stream.setblocking(False)
        loop.add_reader(stream.fileno(), self.pump, 1)

    def send(self, order: Any) -> None:
        """Queue *order* and write as much as the guardian accepts now."""
        if isinstance(order, orders.Pong) and self._out:
            return  # the queued orders show that this master is alive; Pongs must not pile up behind a slow reader
        self._out += framing.encode(to_json(order))
        self._flush()

    @property
    def behind(self) -> int:
        """Number of bytes that the guardian has not read yet."""
        return len(self._out)

    def pump(self, reads: int = PUMP_READS) -> None:
        """Handle what has arrived, with at most *reads* reads."""
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
                data, descriptors, _ = descriptor_passing.receive(self._stream, CHUNK, DESCRIPTORS)
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
        """Log *line*, unless such a line was logged recently."""
        if self._loop.time() >= self._log_at:
            self._log_at = self._loop.time() + LOG_SECONDS
            self._log(line)

    def _hand_over(self, message: dict[str, Any]) -> None:
        try:
            fact = facts.FACTS.from_json(message)
        except UnknownRecord:
            return  # sent by a newer guardian
        try:
            fact = checked(fact)
        except Invalid as error:
            self._drop(f"a message of worker {getattr(fact, 'worker', 0)} is invalid ({error}): dropped")
            return
        self._on_fact(fact, self._descriptor_of(fact))

    def _descriptor_of(self, fact: Any) -> int | None:
        """Return the descriptor sent with *fact*, or None if there was none or it was lost.

        Descriptors arrive in the order of their facts, but any may be missing: the kernel drops one that would exceed
        the descriptor limit of this process. Therefore each is identified by its inode, and earlier ones are closed.
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
        """Stop receiving from the guardian. Queued orders have been written as far as the guardian accepted them."""
        if not self.lost:
            self.lost = True
            self._loop.remove_reader(self._stream.fileno())
            self._loop.remove_writer(self._stream.fileno())
        self._stream.close()


MAX_SENTENCE = 1000
"""Maximum characters of the message about a failed bind: it contains a path that a worker chose."""
_STATE = {field.name for field in dataclasses.fields(facts.WorkerState)}


def checked(fact: Any) -> Any:
    """Return *fact* with everything that a worker chose within its limits. Raises Invalid."""
    check = _CHECKS.get(type(fact))
    return fact if check is None else check(fact)


def _message(fact: facts.Message) -> facts.Message:
    return dataclasses.replace(fact, message=validation.message(fact.message))


def _notified(fact: facts.Notified) -> facts.Notified:
    return dataclasses.replace(fact, fields=validation.notify_fields(fact.fields))


def _ready(fact: facts.Ready) -> facts.Ready:
    return dataclasses.replace(fact, ready=fact.ready is True)


def _listen_failed(fact: facts.ListenFailed) -> facts.ListenFailed:
    return dataclasses.replace(fact, error=validation.plain_text(str(fact.error), MAX_SENTENCE))


def _snapshot(fact: facts.Snapshot) -> facts.Snapshot:
    return dataclasses.replace(fact, workers=[_state(state) for state in fact.workers])


def _state(state: dict[str, Any]) -> dict[str, Any]:
    """Return the state of one worker, without the fields that a newer guardian adds."""
    known = {name: value for name, value in state.items() if name in _STATE}
    ready = known.get("ready")
    return {
        **known,
        "ready": ready if ready is None else ready is True,
        "notified": validation.notify_fields(known.get("notified")),
        "bind_error": validation.plain_text(str(known.get("bind_error", "")), MAX_SENTENCE),
    }


_CHECKS: dict[type, Any] = {
    facts.Message: _message,
    facts.Notified: _notified,
    facts.Ready: _ready,
    facts.ListenFailed: _listen_failed,
    facts.Snapshot: _snapshot,
}

__all__ = ["Invalid", "checked"]


class Sockets:
    """Requests for sockets that the guardian has not answered yet."""

    def __init__(self, kernel: Kernel, log: Callable[[str], None]) -> None:
        self._kernel = kernel
        self._log = log
        self._waiting: dict[str, asyncio.Future[int | None]] = {}

    async def listen(self, order: orders.Listen) -> int | None:
        """Let the guardian open a socket; return the descriptor of an endpoint. Raises ValueError with its message."""
        future: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
        self._waiting[order.address] = future
        self._kernel.send(order)
        return await future

    def settle(self, fact: facts.Listening | facts.ListenFailed, descriptor: int | None) -> None:
        """Complete the request that *fact* answers; log a failure that no request waits for."""
        future = self._waiting.pop(fact.address, None)
        if future is None or future.done():
            if isinstance(fact, facts.ListenFailed):
                self._log(fact.error)
        elif isinstance(fact, facts.Listening):
            future.set_result(descriptor)
        else:
            future.set_exception(ValueError(fact.error))
