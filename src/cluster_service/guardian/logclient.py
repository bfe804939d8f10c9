"""The guardian's side of the log writer: hands it the workers' pipes, and starts it again when it dies.

The guardian keeps each read end until the writer says that the pipe is at its end: so a writer that dies costs what
it had in its hands, not the pipe. It never waits for the writer: what the writer does not take now is kept; lines are
dropped when too many are.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import select
import signal
import socket
import sys
import termios
from array import array
from collections import deque
from typing import TYPE_CHECKING, Any

from cluster_service.machine import shortage

from . import child, spawn

if TYPE_CHECKING:
    from collections.abc import Callable

    from .boot import Boot
    from .limits import Limits
    from .loop import Loop

TAIL_PATIENCE = 2.0
"""Seconds after a worker's exit until its last words are given up."""
LINGER = 5.0
"""Seconds beyond the longest stop that the writer waits for what is still written, once the guardian has ended."""
_RESTART_PAUSE = 1.0
_LOST_PAUSE = 1.0
"""Seconds until a pipe is sent again for which the writer had no descriptor."""
_LINES_LIMIT = 1000
_LINE_LIMIT = 32 * 1024
_ENVIRONMENT = ("NO_COLOR", "TERM", "TZ", "LANG", "LC_ALL", "PATH")


def _is_half_full(pipe: int) -> bool:
    waiting = array("i", [0])
    try:
        fcntl.ioctl(pipe, termios.FIONREAD, waiting)
        return 2 * waiting[0] >= fcntl.fcntl(pipe, fcntl.F_GETPIPE_SZ)
    except OSError:
        return False


class _Source:
    """One worker (number > 0) or master (< 0)."""

    def __init__(self, label: str, out: int, err: int) -> None:
        self.label = label
        self.pipes = {"out": out, "err": err}
        self.released = False
        self.failed: bool | None = None
        """None while it lives; then whether its end was a failure."""
        self.tail_due: float | None = None
        self.tail_told = False


class Logs:
    """The log writer, as the guardian sees it."""

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
        self._sources: dict[int, _Source] = {}
        self._waiting: deque[tuple[bytes, int | None]] = deque()
        self._sock: socket.socket | None = None
        self.pid: int | None = None
        self._started = -_RESTART_PAUSE
        self._start_at: float | None = None
        self._lost: set[tuple[int, str]] = set()
        """Pipes that the writer has not got."""
        self._send_at: float | None = None
        self._ending = False
        self.on_tail: Callable[[int, list[str]], None] = lambda _number, _lines: None

    def __repr__(self) -> str:
        return f"<Logs: writer pid {self.pid}, {len(self._sources)} sources, {len(self._waiting)} messages wait>"

    # ------------------------------------------------------------ what the guardian says

    def line(self, text: str, label: str = "cservice") -> None:
        """Write one line to the service's log."""
        if len(self._waiting) < _LINES_LIMIT:
            self._send({"do": "line", "label": label, "text": text[:_LINE_LIMIT]})

    def add(self, number: int, label: str, out: int, err: int) -> None:
        """Take over the read ends of a worker's pipes."""
        os.set_blocking(out, False)
        os.set_blocking(err, False)
        self._sources[number] = _Source(label, out, err)
        self._send_pipes(number)

    def _send_pipes(self, number: int) -> None:
        source = self._sources[number]
        for stream in source.pipes:
            self._send_pipe(number, stream)

    def _send_pipe(self, number: int, stream: str) -> None:
        source = self._sources.get(number)
        if source is not None and stream in source.pipes:
            message = {"do": "add", "source": number, "label": source.label, "stream": stream}
            self._send(message, source.pipes[stream])

    def _send_state(self, number: int) -> None:
        source = self._sources.get(number)
        if source is not None and source.released:
            self._send({"do": "release", "source": number})
        if source is not None and source.failed is not None:
            self._send({"do": "exited", "source": number, "failed": source.failed})

    def release(self, number: int) -> None:
        """The worker is up: its lines need not be held back."""
        source = self._sources.get(number)
        if source is not None and not source.released:
            source.released = True
            self._send({"do": "release", "source": number})

    def exited(self, number: int, *, failed: bool) -> None:
        """The worker has exited: ``on_tail`` is called with its last lines, sooner or later, once."""
        source = self._sources.get(number)
        if source is None:
            self.on_tail(number, [])
            return
        source.failed = failed
        source.tail_due = self._loop.now() + TAIL_PATIENCE
        self._send({"do": "exited", "source": number, "failed": failed})

    def is_blocked(self, number: int) -> bool:
        """Return whether a process that writes to a pipe of worker *number* may have to wait for the log writer.

        That is the case from a half full pipe on: its pages need not be full, pipe(7).
        """
        source = self._sources.get(number)
        return source is not None and any(map(_is_half_full, source.pipes.values()))

    def reopen(self) -> None:
        """The log file was moved away."""
        self._send({"do": "reopen"})

    # ------------------------------------------------------------ time

    def deadline(self) -> float | None:
        """When ``tick`` has something to do."""
        times = [source.tail_due for source in self._sources.values() if source.tail_due is not None]
        times += [time for time in (self._start_at, self._send_at) if time is not None]
        return min(times, default=None)

    def tick(self, now: float) -> None:
        """Do what has become due."""
        if self._start_at is not None and now >= self._start_at:
            self.start(now)
        if self._send_at is not None and now >= self._send_at:
            lost, self._lost, self._send_at = self._lost, set(), None
            for number, stream in lost:
                self._send_pipe(number, stream)
                self._send_state(number)
        for number, source in list(self._sources.items()):
            if source.tail_due is not None and now >= source.tail_due:
                self._tail(number, [])

    # ------------------------------------------------------------ its process

    def start(self, now: float) -> None:
        """Start the writer, and tell it everything that the one before it knew."""
        self._start_at = None
        self._started = now
        try:
            with spawn.Resources() as resources:
                ours, theirs = resources.pair(socket.SOCK_SEQPACKET)
                launched = spawn.launch(self._plan(theirs.fileno()))
                resources.keep(ours)
        except (spawn.CannotSpawn, OSError):
            self._start_at = now + _RESTART_PAUSE
            return
        launched.sock.close()  # if it cannot be executed it will be seen to end
        self.pid = launched.pid
        self._sock = ours
        lines = [(data, None) for data, descriptor in self._waiting if descriptor is None and b'"do": "line"' in data]
        self._waiting.clear()
        self._lost, self._send_at = set(), None
        self._loop.watch(ours.fileno(), self._ready)
        self._send(self._config)
        for number in self._sources:
            self._send_pipes(number)
            self._send_state(number)
        self._waiting.extend(lines)
        self._flush()

    def _plan(self, control: int) -> child.Plan:
        env = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "__main__.py")
        argv = [sys.executable, "-I", "-S", script, "--log-writer", "3", self._title]
        return child.Plan(argv, env, "/", 1, 2, [control], self._limits)

    def reaped(self, now: float) -> None:
        """The writer's process has ended."""
        self.pid = None
        self._drop()
        if not self._ending:
            self._start_at = max(now, self._started + _RESTART_PAUSE)

    def _drop(self) -> None:
        if self._sock is not None:
            self._loop.drop(self._sock.fileno())
            self._sock.close()
            self._sock = None

    def end(self) -> None:
        """Let the writer write what it has, and end."""
        self._ending = True
        self._flush()
        self._drop()
        for source in self._sources.values():
            for descriptor in source.pipes.values():
                os.close(descriptor)
        self._sources.clear()

    def kill(self) -> None:
        """End the writer at once."""
        if self.pid is not None:
            os.kill(self.pid, signal.SIGKILL)

    # ------------------------------------------------------------ its socket

    def _send(self, message: dict[str, Any], descriptor: int | None = None) -> None:
        self._waiting.append((json.dumps(message).encode(), descriptor))
        self._flush()

    def _flush(self) -> None:
        sock = self._sock
        if sock is None:
            return
        while self._waiting:
            data, descriptor = self._waiting[0]
            try:
                socket.send_fds(sock, [data], [] if descriptor is None else [descriptor], socket.MSG_DONTWAIT)
            except (BlockingIOError, InterruptedError):
                break
            except OSError:  # it has died: its end will be seen, and everything told anew
                self._loop.change(sock.fileno(), 0)
                return
            self._waiting.popleft()
        self._loop.change(sock.fileno(), select.EPOLLIN | (select.EPOLLOUT if self._waiting else 0))

    def _ready(self, events: int) -> None:
        if events & select.EPOLLOUT:
            self._flush()
        while self._sock is not None:
            try:
                data = self._sock.recv(256 * 1024, socket.MSG_DONTWAIT)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                data = b""
            if not data:
                self._loop.drop(self._sock.fileno())
                return
            self._told(json.loads(data))

    def _told(self, message: dict[str, Any]) -> None:
        if "lost" in message:
            if not self._lost:
                self.line(f"the log writer cannot read all that is written: {shortage.SENTENCES[errno.EMFILE]}")
                self._send_at = self._loop.now() + _LOST_PAUSE
            self._lost.add((int(message["lost"]), str(message["stream"])))
        elif "tail" in message:
            self._tail(int(message["tail"]), [str(line) for line in message["lines"]])
        elif "closed" in message:
            source = self._sources.get(int(message["closed"]))
            descriptor = None if source is None else source.pipes.pop(str(message["stream"]), None)
            if descriptor is not None:
                os.close(descriptor)
            self._forget(int(message["closed"]))

    def _tail(self, number: int, lines: list[str]) -> None:
        source = self._sources.get(number)
        if source is None or source.tail_told:
            return
        source.tail_due = None
        source.tail_told = True
        self.on_tail(number, lines)
        self._forget(number)

    def _forget(self, number: int) -> None:
        source = self._sources.get(number)
        if source is not None and source.tail_told and not source.pipes:
            del self._sources[number]
