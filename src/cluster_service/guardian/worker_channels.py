"""Unsolicited messages from workers: on their channel (``wire.worker_protocol``), and by sd_notify on NOTIFY_SOCKET.

A worker can only harm itself. The guardian reads a bounded number of datagrams from it at a time, within its rate
limit (``Allowance``): beyond that, only that worker's own socket fills. Messages are validated (``wire.validation``)
before use. Messages that the master does not read in time are dropped. A worker's reports of its own state are never
dropped: they are merged, so that the latest one counts. Problems that a worker causes are logged once per
``REPORT_SECONDS``.
"""

from __future__ import annotations

import os
import socket
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from cluster_service.wire import facts, validation, worker_protocol

from .untrusted_input import DESCRIPTOR_COST, DISCARD, Allowance, close_socket, receive

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .event_loop import Loop
    from .helper_client import Answer, Helper
    from .holdings import Worker

MAX_AT_A_TIME, MAX_SECONDS_AT_A_TIME = 64, 0.02
"""Maximum number of datagrams read from one worker, and CPU time spent on them, before other workers are served."""
MAX_KEPT, MAX_KEPT_BYTES = 200, 256 * 1024
"""Maximum number of messages per worker, and of their bytes, that are kept while there is no master."""
REPORT_SECONDS = 10.0
"""Seconds from a worker's first problem until the log line about it."""
PAUSE_SECONDS = 0.05
"""Minimum pause in reading from a worker that has sent too much, and the interval at which its state is retried."""


class _Source:
    """State of one worker as a sender."""

    def __init__(self, worker: Worker, now: float) -> None:
        self.worker = worker
        self.allowance = Allowance(now)
        self.resume_at: float | None = None
        """When to resume reading its sockets; None: they are read."""
        self.report_at: float | None = None
        self.paused = 0.0
        """Seconds in this period for which reading was paused because it had sent too much."""
        self.dropped = 0
        """Number of messages dropped in this period because the master did not read them in time."""
        self.invalid = 0
        self.reason = ""
        """Why the last invalid message was rejected."""
        self.unsent: dict[str, str] = {}
        """Fields of sd_notify that have not been sent to the master."""
        self.ready_unsent = False
        self.send_at: float | None = None
        """When to retry sending its state."""
        self.discarding = False
        """True while the helper discards a datagram with descriptors; the notify socket is not read."""


class Channels:
    """Reader of the messages that workers send.

    *up* is called for a worker that reports that it is ready; *room* returns whether a further message of a worker can
    be sent to the master.
    """

    def __init__(self, loop: Loop, helper: Helper, log: Callable[[str], None]) -> None:
        self._loop = loop
        self._helper = helper
        self._log = log
        self._sources: dict[int, _Source] = {}
        self._lent: set[socket.socket] = set()
        """Sockets from which the helper is discarding a datagram: they are not closed until it has finished."""
        self._kept: dict[int, deque[tuple[int, facts.Message]]] = {}
        self.tell: Callable[[Any], None] = lambda _fact: None
        self.greeted: Callable[[], bool] = lambda: False
        self.room: Callable[[int], bool] = lambda _number: True
        self.up: Callable[[Worker], None] = lambda _worker: None

    # ------------------------------------------------------------ workers

    def add(self, worker: Worker) -> None:
        """Start reading from *worker*."""
        source = self._sources[worker.number] = _Source(worker, self._loop.now())
        self._watch(source)

    def remove(self, worker: Worker) -> None:
        """Read the last messages of *worker*, ``MAX_AT_A_TIME`` per socket at most, and stop."""
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
        """Close a socket of *worker*, even if its queue is not empty."""
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
        """Return when to call ``tick`` next, or None."""
        sources = self._sources.values()
        due = [at for source in sources for at in (source.resume_at, source.report_at, source.send_at)]
        return min((at for at in due if at is not None), default=None)

    def tick(self, now: float) -> None:
        """Run the actions that are due at *now*."""
        for source in list(self._sources.values()):
            if source.resume_at is not None and now >= source.resume_at:
                source.resume_at = None
                self._watch(source)
            if source.send_at is not None and now >= source.send_at:
                self._send_state(source)
            if source.report_at is not None and now >= source.report_at:
                self._report(source)

    def _may_read(self, source: _Source) -> bool:
        """Return whether the rate limit permits reading from *source* now; if not, pause reading until it does."""
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

    # ------------------------------------------------------------ problems

    def _wrong(self, source: _Source) -> _Source:
        if source.report_at is None:
            source.report_at = self._loop.now() + REPORT_SECONDS
        return source

    def _reject(self, source: _Source, reason: str) -> None:
        self._wrong(source).invalid += 1
        source.reason = reason

    def _report(self, source: _Source) -> None:
        """Log the problems that *source* caused in this period, and start a new period."""
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
        """Yield once for each datagram that may be read now from *source*. *last*: the worker has exited."""
        began = spent = time.thread_time()
        for _ in range(MAX_AT_A_TIME):
            if not (last or (spent - began < MAX_SECONDS_AT_A_TIME and self._may_read(source))):
                return
            yield
            spent, before = time.thread_time(), spent
            source.allowance.spend(spent - before)

    def _read_channel(self, source: _Source, *, last: bool = False) -> None:
        """Receive the messages on the worker's channel. *last*: the worker has exited."""
        worker = source.worker
        for _ in self._turns(source, last=last):
            sock = worker.channel
            if sock is None:
                return
            try:
                received = receive(sock, worker_protocol.LIMIT)
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
                self._message(source, worker_protocol.decode(received.data), len(received.data))
            except worker_protocol.ChannelError as error:
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
        """Send a new master the messages that arrived while there was none."""
        kept, self._kept = self._kept, {}
        for of_worker in kept.values():
            for _size, fact in of_worker:
                self.tell(fact)

    def _read_notify(self, source: _Source, *, last: bool = False) -> None:
        """Receive the worker's sd_notify datagrams. *last*: the worker has exited."""
        worker = source.worker
        for _ in self._turns(source, last=last):
            sock = worker.notify
            if sock is None or source.discarding:
                return
            try:
                received = receive(sock, worker_protocol.LIMIT)
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
        """Discard the oldest datagram of *sock*, which carries descriptors, in the helper; then resume reading."""
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
        """Send the state that *source* reported to the master, or retry in ``PAUSE_SECONDS``.

        State that cannot be sent yet is merged: WATCHDOG=1 twice is WATCHDOG=1. A new master receives it in its
        snapshot.
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
    """Send *message* on the worker's channel. Return why it could not be sent, or an empty string."""
    if worker.channel is None:
        return "it has no channel"
    try:
        worker.channel.send(worker_protocol.encode(message), socket.MSG_DONTWAIT)
    except BlockingIOError:
        return "it does not read its channel"
    except worker_protocol.ChannelError as error:
        return str(error)
    except OSError:
        return "it has closed its channel"
    return ""
