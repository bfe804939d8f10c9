"""What workers send of their own accord: on their channel (``wire.channel``), and by sd_notify on NOTIFY_SOCKET.

A worker can only harm itself. Its sockets are read a bounded number of datagrams at a time, and as fast as its
allowance permits: beyond that its own socket fills, and no other worker's. Messages are checked (``wire.validation``)
before anything acts on them. Messages that the master does not take in time are dropped; what a worker says of its own
state is not, only its latest counts. What a worker did wrong is logged once a period.
"""

from __future__ import annotations

import os
import socket
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from cluster_service.wire import channel, facts, validation

from .allowance import DESCRIPTOR_COST, Allowance
from .receiving import DISCARD, close_socket, receive

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .helper import Answer, Helper
    from .holdings import Worker
    from .watching import Loop

MAX_AT_A_TIME, MAX_SECONDS_AT_A_TIME = 64, 0.02
"""Datagrams that are read from one worker, and processor time that they may cost, before the others are served."""
MAX_KEPT, MAX_KEPT_BYTES = 200, 256 * 1024
"""Messages of one worker, and their bytes, that are kept while there is no master."""
REPORT_SECONDS = 10.0
"""Seconds from the first wrong of a worker until the log line about it."""
PAUSE_SECONDS = 0.05
"""Seconds, at least, for which a worker is not read that has sent too much, and until its state is sent again."""


class _Source:
    """What is known of one worker as a sender."""

    def __init__(self, worker: Worker, now: float) -> None:
        self.worker = worker
        self.allowance = Allowance(now)
        self.resume_at: float | None = None
        """Its sockets are not read until then."""
        self.report_at: float | None = None
        self.paused = 0.0
        """Seconds in this period for which it was not read because it had sent too much."""
        self.dropped = 0
        """Messages in this period that were dropped because no master took them."""
        self.invalid = 0
        self.reason = ""
        """Why the last of the invalid ones was."""
        self.unsent: dict[str, str] = {}
        """Fields of sd_notify that the master has not been sent."""
        self.ready_unsent = False
        self.send_at: float | None = None
        """When to try again to send them."""
        self.discarding = False
        """A datagram with descriptors is being discarded; its notify socket is not read."""


class Channels:
    """Reads what workers send. *up* is called for a worker that says that it serves; *room* returns whether the master
    can be sent more of a worker.
    """

    def __init__(self, loop: Loop, helper: Helper, log: Callable[[str], None]) -> None:
        self._loop = loop
        self._helper = helper
        self._log = log
        self._sources: dict[int, _Source] = {}
        self._lent: set[socket.socket] = set()
        """Sockets of which the helper discards a datagram: they are closed when it has."""
        self._kept: dict[int, deque[tuple[int, facts.Message]]] = {}
        self.tell: Callable[[Any], None] = lambda _fact: None
        self.greeted: Callable[[], bool] = lambda: False
        self.room: Callable[[int], bool] = lambda _number: True
        self.up: Callable[[Worker], None] = lambda _worker: None

    # ------------------------------------------------------------ workers

    def add(self, worker: Worker) -> None:
        """Begin to read *worker*."""
        source = self._sources[worker.number] = _Source(worker, self._loop.now())
        self._watch(source)

    def remove(self, worker: Worker) -> None:
        """Read what *worker* sent last, as far as it may, and stop."""
        source = self._sources.get(worker.number)
        if source is None:
            return
        self._unwatch(source)
        try:
            self._read_channel(source, last=True)
            self._read_notify(source, last=True)
        finally:
            del self._sources[worker.number]
            self._report(source)

    def close(self, worker: Worker, sock: socket.socket | None) -> None:
        """Close a socket of *worker*, whatever waits in its queue."""
        if sock is not None:
            self._loop.drop(sock.fileno())
            if sock not in self._lent:
                close_socket(self._helper, sock)
        if sock is worker.channel:
            worker.channel = None
        if sock is worker.notify:
            worker.notify = None

    def _watch(self, source: _Source) -> None:
        worker = source.worker
        if worker.channel is not None:
            self._loop.watch(worker.channel.fileno(), lambda _events: self._read_channel(source))
        if worker.notify is not None and not source.discarding:
            self._loop.watch(worker.notify.fileno(), lambda _events: self._read_notify(source))

    def _unwatch(self, source: _Source) -> None:
        for sock in (source.worker.channel, source.worker.notify):
            if sock is not None:
                self._loop.drop(sock.fileno())

    # ------------------------------------------------------------ time

    def deadline(self) -> float | None:
        """When ``tick`` has something to do."""
        sources = self._sources.values()
        due = [at for source in sources for at in (source.resume_at, source.report_at, source.send_at)]
        return min((at for at in due if at is not None), default=None)

    def tick(self, now: float) -> None:
        """Do what has become due."""
        for source in list(self._sources.values()):
            if source.resume_at is not None and now >= source.resume_at:
                source.resume_at = None
                self._watch(source)
            if source.send_at is not None and now >= source.send_at:
                self._send_state(source)
            if source.report_at is not None and now >= source.report_at:
                self._report(source)

    def _may_read(self, source: _Source) -> bool:
        """Return whether *source* may be read now; if not, it is not watched until it may."""
        if source.resume_at is not None:
            return False
        now = self._loop.now()
        wait = source.allowance.wait(now)
        if not wait:
            return True
        wait = max(wait, PAUSE_SECONDS)
        self._wrong(source).paused += wait
        source.resume_at = now + wait
        self._unwatch(source)
        return False

    # ------------------------------------------------------------ what they did wrong

    def _wrong(self, source: _Source) -> _Source:
        if source.report_at is None:
            source.report_at = self._loop.now() + REPORT_SECONDS
        return source

    def _reject(self, source: _Source, reason: str) -> None:
        self._wrong(source).invalid += 1
        source.reason = reason

    def _report(self, source: _Source) -> None:
        """Log what *source* did wrong in this period."""
        name = source.worker
        if source.paused:
            self._log(
                f"{name} sends too many messages: not read for {min(source.paused, REPORT_SECONDS):.1f} s"
                f" of the last {REPORT_SECONDS:.0f} s"
            )
        if source.dropped:
            self._log(
                f"{name} sends too many messages: {source.dropped:,} dropped in {REPORT_SECONDS:.0f} s,"
                " because the master did not take them in time"
            )
        if source.invalid:
            self._log(
                f"{name} sent {source.invalid:,} invalid messages in {REPORT_SECONDS:.0f} s;"
                f" they were dropped. The last one: {source.reason}"
            )
        source.report_at, source.paused, source.dropped, source.invalid = None, 0.0, 0, 0

    # ------------------------------------------------------------ reading

    def _turns(self, source: _Source, *, last: bool) -> Iterator[None]:
        """Yield for each datagram that may be read now from *source*. *last*: it has ended, and sends nothing more."""
        began = spent = time.thread_time()
        for _ in range(MAX_AT_A_TIME):
            if not (last or (spent - began < MAX_SECONDS_AT_A_TIME and self._may_read(source))):
                return
            yield
            spent, before = time.thread_time(), spent
            source.allowance.spend(spent - before)

    def _read_channel(self, source: _Source, *, last: bool = False) -> None:
        """Take what the worker has sent on its channel. *last*: it has ended."""
        worker = source.worker
        for _ in self._turns(source, last=last):
            sock = worker.channel
            if sock is None:
                return
            try:
                received = receive(sock, channel.LIMIT)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                self.close(worker, sock)
                return
            if received.descriptors:
                self._reject(source, "it came with file descriptors; the channel is closed")
                self.close(worker, sock)
                return
            if not received.data:
                self.close(worker, sock)
                return
            source.allowance.take(len(received.data), self._loop.now())
            try:
                self._message(source, channel.decode(received.data), len(received.data))
            except channel.ChannelError as error:
                self._reject(source, str(error))

    def _message(self, source: _Source, message: dict[str, Any], size: int) -> None:
        worker = source.worker
        if message["type"] == "ready":
            worker.ready = message["ready"]
            if worker.ready:
                self.up(worker)
            source.ready_unsent = True
            self._send_state(source)
        elif message["type"] == "notify":
            self._notified(source, message["fields"])
        else:
            self._pass_on(source, facts.Message(worker.number, message), size)

    def _pass_on(self, source: _Source, fact: facts.Message, size: int) -> None:
        if self.greeted():
            if self.room(fact.worker):
                self.tell(fact)
            else:
                self._wrong(source).dropped += 1
            return
        kept = self._kept.setdefault(fact.worker, deque())
        kept.append((size, fact))
        while len(kept) > MAX_KEPT or sum(each for each, _ in kept) > MAX_KEPT_BYTES:
            kept.popleft()
            self._wrong(source).dropped += 1

    def deliver_kept(self) -> None:
        """Send a new master what workers sent while there was none."""
        kept, self._kept = self._kept, {}
        for of_worker in kept.values():
            for _size, fact in of_worker:
                self.tell(fact)

    def _read_notify(self, source: _Source, *, last: bool = False) -> None:
        """Take the sd_notify datagrams that have come. *last*: the worker has ended."""
        worker = source.worker
        for _ in self._turns(source, last=last):
            sock = worker.notify
            if sock is None or source.discarding:
                return
            try:
                received = receive(sock, channel.LIMIT)
            except (BlockingIOError, InterruptedError):
                return
            source.allowance.take(len(received.data), self._loop.now(), DESCRIPTOR_COST if received.descriptors else 1)
            if received.uid in (worker.uid, 0, os.getuid()):
                try:
                    fields = validation.parse_notify(received.data)
                except validation.Invalid as error:
                    self._reject(source, str(error))
                else:
                    self._notified(source, fields)
            if received.descriptors and last:
                return
            if received.descriptors:
                self._discard(source, sock)

    def _discard(self, source: _Source, sock: socket.socket) -> None:
        """Let the datagram with descriptors that is the oldest of *sock* be discarded, and go on then."""
        source.discarding = True
        self._loop.drop(sock.fileno())
        self._lent.add(sock)

        def done(answer: Answer) -> None:
            source.discarding = False
            self._lent.discard(sock)
            if source.worker.notify is not sock:
                close_socket(self._helper, sock)
            elif answer.error:
                self._reject(source, "it came with a file descriptor that cannot be closed; NOTIFY_SOCKET is closed")
                self.close(source.worker, sock)
            elif source.resume_at is None:
                self._loop.watch(sock.fileno(), lambda _events: self._read_notify(source))

        self._helper.ask(DISCARD, {}, [sock.fileno()], done)

    def _notified(self, source: _Source, fields: dict[str, str]) -> None:
        if not fields:
            return
        source.worker.notified.update(fields)
        if fields.get("READY") == "1":
            self.up(source.worker)
        source.unsent.update(fields)
        self._send_state(source)

    def _send_state(self, source: _Source) -> None:
        """Send the master what *source* says of its own state, or try again in a moment; a new one's snapshot has it.

        States that the master did not take in time are merged: WATCHDOG=1 twice is WATCHDOG=1.
        """
        worker = source.worker
        if not self.room(worker.number):
            source.send_at = self._loop.now() + PAUSE_SECONDS
            return
        fields, source.unsent = source.unsent, {}
        ready, source.ready_unsent, source.send_at = source.ready_unsent, False, None
        if fields:
            self.tell(facts.Notified(worker.number, fields))
        if ready:
            self.tell(facts.Ready(worker.number, worker.ready is True))


def send(worker: Worker, message: dict[str, Any]) -> str:
    """Send *message* on the worker's channel. Returns why it could not be sent, or an empty string."""
    if worker.channel is None:
        return "it has no channel"
    try:
        worker.channel.send(channel.encode(message), socket.MSG_DONTWAIT)
    except BlockingIOError:
        return "it does not read its channel"
    except channel.ChannelError as error:
        return str(error)
    except OSError:
        return "it has closed its channel"
    return ""
