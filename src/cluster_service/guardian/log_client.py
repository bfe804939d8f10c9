"""Client of the log writer in the guardian: hands over the workers' pipes and restarts the writer when it dies.

The guardian keeps each read end open until the writer reports the end of the pipe, so if a writer dies, only the data
it had already read is lost, not the pipe. Neither side waits for the other: sends and receives never block.

A writer that has not answered for ``WRITER_TIMEOUT`` (because it is stopped, or its disk stalls) is killed and
replaced. Pipes are handed over only to a writer that has answered. If no writer has answered for that time, for
whatever reason, the guardian drains the pipes itself (``log_sources.Discarder``): workers lose lines, which are
counted, but never block.
"""

from __future__ import annotations

import contextlib
import errno
import json
import mmap
import os
import select
import signal
import socket
import sys
from typing import TYPE_CHECKING, Any

from cluster_service.machine import descriptor_passing, shortage
from cluster_service.machine.identity import OWN

from . import forked_child, spawn
from .log_sources import (
    ANSWER_BYTES,
    HALF_FULL,
    INTERVAL,
    TAIL_CHARACTERS,
    TAIL_LINES,
    Discarder,
    Left,
    Outbox,
    Source,
    Unread,
    left,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from .boot_message import Boot
    from .event_loop import Loop
    from .helper_client import Helper
    from .process_limits import Limits

WRITER_TIMEOUT = 10.0
"""Seconds without an answer after which the writer is replaced and the workers' output is discarded."""
TAIL_PATIENCE = 2.0
"""Seconds to wait for the last lines of a worker after its exit."""
LINGER = 5.0
"""Seconds beyond the longest stop timeout for which the writer keeps writing after the guardian has ended."""
EXITED_LIMIT = 500
"""Maximum number of exited workers with pipes that other processes keep open; the oldest are closed first."""
_RESTART_PAUSE, _LONGEST_PAUSE = 1.0, 10.0
"""Minimum and maximum seconds between two starts; doubled each time that a writer ends within ``_PROVEN``."""
_PROVEN = 60.0
_LOST_PAUSE = 1.0
"""Seconds until a pipe that was lost for want of a descriptor is sent again."""
_ANSWERS = 100
"""Maximum number of messages read from the writer at a time."""
_ENVIRONMENT = ("NO_COLOR", "TERM", "TZ", "LANG", "LC_ALL", "PATH")


class Logs:
    """Client of the log writer."""

    def __init__(self, loop: Loop, limits: Limits, boot: Boot) -> None:
        self._loop = loop
        self._limits = limits
        self._title = boot.title("log writer")
        self._config = {
            "do": "config",
            "log_file": boot.log_file,
            "linger": boot.stop_timeout + LINGER,
            "max_size": boot.log_max_size,
            "keep": boot.log_keep,
        }
        self._sources: dict[int, Source] = {}
        self._outbox = Outbox()
        self.discarder = Discarder(self._at_end)
        self._buffer = mmap.mmap(-1, ANSWER_BYTES)
        """Allocated in advance, so that an answer can be received when memory is exhausted."""
        self._sock: socket.socket | None = None
        self.pid: int | None = None
        self._heard = loop.now()
        """When any writer last answered."""
        self._pinged = False
        self._killed = False
        self._started = -_RESTART_PAUSE
        self._pause = _RESTART_PAUSE
        self._start_at: float | None = None
        self._discard_at: float | None = None
        """When the next round is due, while output is discarded."""
        self._lost: set[tuple[int, str]] = set()
        """Pipes that the writer failed to receive."""
        self._send_at: float | None = None
        self._ending = False
        self._unread = Unread()
        self.on_tail: Callable[[int, list[str]], None] = lambda _number, _lines: None
        self.helper: Helper
        """For operations that take the lock of a pipe, which a worker can hold (``abandonable_calls``)."""

    def __repr__(self) -> str:
        return f"<Logs: writer pid {self.pid}, {len(self._sources)} sources, {len(self._outbox.lines)} lines wait>"

    # ------------------------------------------------------------ requests of the guardian

    def line(self, text: str, label: str = "cservice") -> None:
        """Write one line to the service's log."""
        self._outbox.lines.add(text, label)
        self._flush()

    def add(self, number: int, label: str, out: int, err: int) -> None:
        """Take over the read ends of a worker's pipes."""
        os.set_blocking(out, False)
        os.set_blocking(err, False)
        source = self._sources[number] = Source(number, label, out, err)
        self._send(source)

    def release(self, number: int) -> None:
        """Stop holding back the lines of a worker, which is up."""
        source = self._sources.get(number)
        if source is not None and not source.released:
            source.released = True
            source.unsent.append("release")
            self._send(source)

    def exited(self, number: int, *, failed: bool) -> None:
        """Note the exit of a worker; ``on_tail`` is called once with its last lines, now or later."""
        source = self._sources.get(number)
        if source is None:
            self.on_tail(number, [])
            return
        source.failed = failed
        source.tail_due = self._loop.now() + TAIL_PATIENCE
        source.unsent.append("exited")
        self._send(source)
        kept = [each for each in self._sources.values() if each.tail_told]
        for oldest in kept[: max(0, len(kept) - EXITED_LIMIT)]:
            self._drop_pipes(oldest)

    def inspect(self, number: int, on_answer: Callable[[bool], None]) -> None:
        """Find out whether a process that writes to a pipe of worker *number* may be blocked by the log writer.

        This is possible once the pipe is half full, because its pages need not be full, pipe(7). It is not so if the
        pipe is locked: then one of the worker's own processes blocks it.
        """
        source = self._sources.get(number)
        pipes = [] if source is None else list(source.pipes.values())
        self.helper.ask(HALF_FULL, {}, pipes, lambda answer: on_answer(bool(answer.values.get("found"))))

    def reopen(self) -> None:
        """Make the writer reopen the log file, which has been moved away."""
        self._ask("reopen")

    # ------------------------------------------------------------ time

    def suspended(self, now: float) -> None:
        """Restart the answer timeout: the machine or the guardian was suspended, which is not the writer's fault."""
        self._heard = now
        self._pinged = False

    def deadline(self) -> float | None:
        """Return when ``tick`` is due next."""
        times = [source.tail_due for source in self._sources.values()]
        times += [self._start_at, self._send_at, self._discard_at, self._ping_at(), self._kill_at()]
        times += [self._heard + WRITER_TIMEOUT] if self._discard_at is None else []
        return min((time for time in times if time is not None), default=None)

    def tick(self, now: float) -> None:
        """Run everything that is due."""
        if self._start_at is not None and now >= self._start_at:
            self.start(now)
        ping_at, kill_at = self._ping_at(), self._kill_at()
        if ping_at is not None and now >= ping_at:
            self._pinged = True
            self._ask("ping")
        if kill_at is not None and now >= kill_at:
            self._replace(f"has not answered for {now - self._heard:.0f} s")
        if now >= (self._heard + WRITER_TIMEOUT if self._discard_at is None else self._discard_at):
            self.discarder.round(list(self._sources.values()), self.helper)
            self._discard_at = now + INTERVAL
        if self._send_at is not None and now >= self._send_at:
            lost, self._lost, self._send_at = self._lost, set(), None
            for number, stream in lost:
                if number in self._sources:
                    self._sources[number].send_pipe_again(stream)
                    self._outbox.add(self._sources[number])
            self._flush()
        for number, source in list(self._sources.items()):
            if source.tail_due is not None and now >= source.tail_due:
                self._tail(number, [])

    def _ping_at(self) -> float | None:
        """Return when to ping the writer."""
        return self._heard + WRITER_TIMEOUT / 2 if self._outbox.answered and not self._pinged else None

    def _kill_at(self) -> float | None:
        """Return when to kill the writer for not answering."""
        return None if self.pid is None or self._killed else max(self._heard, self._started) + WRITER_TIMEOUT

    # ------------------------------------------------------------ its process

    def start(self, now: float) -> None:
        """Start the writer and send it the complete state."""
        self._start_at = None
        try:
            with spawn.Resources() as resources:
                ours, theirs = resources.pair(socket.SOCK_SEQPACKET)
                launched = spawn.launch(self._plan(theirs.fileno()))
                resources.keep(ours)
        except (spawn.CannotSpawn, OSError):
            self._start_at = now + _RESTART_PAUSE
            return
        launched.sock.close()  # if it cannot be executed, its exit will be noticed
        self._started = now
        self.pid, self._sock = launched.pid, ours
        self._pinged = self._killed = False
        self._lost, self._send_at = set(), None
        self._outbox.restart((self._config, {"do": "ping"}), self._sources.values())
        self._loop.watch(ours.fileno(), self._ready)
        self._flush()

    def _plan(self, control: int) -> forked_child.Plan:
        env = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "__main__.py")
        argv = [sys.executable, "-I", "-S", script, "--log-writer", "3", self._title]
        return forked_child.Plan(argv, env, "/", 1, 2, [control], self._limits, OWN, complain=True)

    def reaped(self, now: float) -> None:
        """Handle the exit of the writer's process."""
        self.pid = None
        self._close()
        if not self._ending:
            if now - self._started >= _PROVEN:
                self._pause = _RESTART_PAUSE
            self._start_at = max(now, self._started + self._pause)
            self._pause = min(_LONGEST_PAUSE, 2 * self._pause)

    def _replace(self, why: str) -> None:
        """Kill this writer. Its successor starts after it has ended, which may take long if its disk stalls."""
        self._killed = True
        self._close()
        self.line(f"killed the log writer (pid {self.pid}), which {why}; starting another")
        self.kill()

    def _close(self) -> None:
        self._outbox.answered = False
        if self._sock is not None:
            self._loop.drop(self._sock.fileno())
            self._sock.close()
            self._sock = None

    def finish(self, patience: float) -> bool:
        """Let the writer end once it has been sent everything.

        Return True while it runs and has received or written something within the last *patience* seconds.
        """
        self._flush()
        if not self._outbox and not self._ending and self._sock is not None:
            self._ending = True
            self._sock.shutdown(socket.SHUT_WR)
        return self.pid is not None and self._unread.changes(self._left(), self._loop.now(), patience)

    @property
    def answered(self) -> bool:
        """Whether the current writer has answered."""
        return self._outbox.answered

    def lost(self) -> str:
        """Return a sentence about what no writer has received; empty if nothing is left."""
        return self._left().sentence()

    def _left(self) -> Left:
        pipes = [pipe for source in self._sources.values() for pipe in source.pipes.values()]
        return left(len(self._outbox.lines), pipes, self._sock, self._heard)

    def end(self) -> None:
        """Close everything."""
        self._ending = True
        self._close()
        for source in self._sources.values():
            for descriptor in source.pipes.values():
                os.close(descriptor)
        self._sources.clear()

    def kill(self) -> None:
        """Kill the writer immediately."""
        if self.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    # ------------------------------------------------------------ sending

    def _ask(self, what: str) -> None:
        self._outbox.ask(what)
        self._flush()

    def _send(self, source: Source) -> None:
        self._outbox.add(source)
        self._flush()

    def _drop_pipes(self, source: Source) -> None:
        for stream in list(source.pipes):
            self._at_end(source, stream)
        self._outbox.drop(source)
        self._flush()

    def _flush(self) -> None:
        """Send queued messages until the writer accepts no more."""
        sock = self._sock
        if sock is None:
            return
        while (message := self._outbox.first()) is not None:
            try:
                descriptor_passing.send(sock, message.data, message.descriptors)
            except (BlockingIOError, InterruptedError):
                break
            except OSError as error:
                if error.errno != errno.EMSGSIZE:
                    self._cannot_send(sock, error)
                    return
            message.sent()
        self._loop.change(sock.fileno(), select.EPOLLIN | (0 if message is None else select.EPOLLOUT))

    def _cannot_send(self, sock: socket.socket, error: OSError) -> None:
        """Retry later on a shortage; otherwise the writer has died, and its successor is sent everything."""
        if error.errno in descriptor_passing.SHORTAGES:  # the socket polls writable nonetheless
            self._loop.change(sock.fileno(), select.EPOLLIN)
            self._send_at = self._send_at or self._loop.now() + _LOST_PAUSE
        else:
            self._loop.change(sock.fileno(), 0)

    # ------------------------------------------------------------ receiving

    def _ready(self, events: int) -> None:
        if events & select.EPOLLOUT:
            self._flush()
        for _ in range(_ANSWERS):
            if self._sock is None:
                return
            try:
                size = self._sock.recv_into(self._buffer, flags=socket.MSG_DONTWAIT)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                size = 0
            if not size:
                self._loop.drop(self._sock.fileno())
                return
            try:
                self._told(json.loads(self._buffer[:size]))
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
                self._replace(f"sent an invalid message ({error!r})")
                return

    def _told(self, message: Any) -> None:
        if not isinstance(message, dict):
            raise TypeError("not an object")
        self._hear()
        if "lost" in message:
            if not self._lost:
                self.line(f"the log writer cannot read all that is written: {shortage.SENTENCES[errno.EMFILE]}")
                self._send_at = self._loop.now() + _LOST_PAUSE
            number, stream = int(message["lost"]), str(message["stream"])
            if number in self._sources:
                self._lost.add((number, stream))
        elif "tail" in message:
            lines = [str(line)[:TAIL_CHARACTERS] for line in message["lines"][:TAIL_LINES]]
            self._tail(int(message["tail"]), lines)
        elif "closed" in message:
            source = self._sources.get(int(message["closed"]))
            if source is not None:
                self._at_end(source, str(message["stream"]))

    def _hear(self) -> None:
        """Note that the writer answered, and hand over everything held back until then."""
        self._heard = self._loop.now()
        self._pinged = False
        if not self._outbox.answered:
            self._outbox.answered = True
            self._discard_at = None
            for line in self.discarder.report():
                self.line(line)
            self._flush()

    def _at_end(self, source: Source, stream: str) -> None:
        """Close a pipe that has reached its end."""
        descriptor = source.forget_pipe(stream)
        if descriptor is not None:
            self.helper.close(descriptor)
        self._forget(source)

    def _tail(self, number: int, lines: list[str]) -> None:
        source = self._sources.get(number)
        if source is None or source.failed is None or source.tail_told:
            return
        source.tail_due = None
        source.tail_told = True
        self.on_tail(number, lines)
        self._forget(source)

    def _forget(self, source: Source) -> None:
        if source.tail_told and not source.pipes:
            self._sources.pop(source.number, None)
            self._outbox.forget(source)
