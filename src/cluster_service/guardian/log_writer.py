"""The log writer: a separate process that reads the workers' pipes and writes whole lines with worker names.

Run by the guardian as ``python -I -S guardian/__main__.py --log-writer FD``. Invariants: it never waits for a worker.
It never loses a line because its own output is slow: it stops reading, the pipes fill, and the workers block as they
would on a slow terminal. A closed output or a full disk blocks no worker: lines are dropped and counted, and the count
is written when writing works again. If a log file cannot be opened, the writer retries and keeps writing to the
previous output meanwhile. Memory is bounded.

Control messages from the guardian, one JSON object per datagram:

    {"do": "config", "log_file": null | path, "linger": seconds, "max_size": bytes, "keep": files}
    {"do": "add", "source": 3, "label": "web.1", "stream": "out" | "err"} + the pipe's read end
    {"do": "release", "source": 3}                  the worker is up: stop holding its lines back
    {"do": "exited", "source": 3, "failed": true}   -> {"tail": 3, "lines": [...]}
    {"do": "line", "label": "cservice", "text": "..."}
    {"do": "drop", "source": 3}                     stop reading its pipes
    {"do": "reopen"}
    {"do": "ping"}                                  -> {"pong": true}, after an attempt to write pending data

Besides tails, the writer sends {"closed": 3, "stream": "out"} when it reaches the end of a pipe and {"lost": 3,
"stream": "out"} when a pipe did not arrive because it had no free descriptor; the guardian then sends that pipe again.
Neither side waits for the other: answers that the guardian does not accept yet are queued, and beyond ``ANSWERS_LIMIT``
queued answers the writer stops reading requests. When the control stream ends, the writer writes what still arrives,
for at most *linger* seconds, and exits. During that time it sends a ``pong`` after each successful write: the guardian
waits only while it makes progress.

A line that is not completed within a second is written as far as it has been received; the rest becomes a line of its
own. For a progress bar, which redraws itself with carriage returns, that is its last state.

A worker's first lines are held back for up to a second. If the worker has died by then, and a worker of its group has
just died with the same lines (ignoring digits: pids, times), a single line reports it: eight workers that cannot start
produce one traceback, not eight, and not eight more on each attempt.
"""

from __future__ import annotations

import errno
import json
import os
import re
import select
import signal
import socket
import time
from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, Any

from cluster_service.machine import descriptor_passing, files, shortage

from . import log_output
from .abandonable_calls import PATIENCE_SECONDS, Calls
from .log_output import CHUNK, Sink, Source, Stream, Unfinished
from .log_sources import ANSWER_BYTES, TAIL_CHARACTERS, TAIL_LINES
from .process_limits import raise_descriptors

if TYPE_CHECKING:
    from collections.abc import Callable

    from .abandonable_calls import Call

HOLD_SECONDS, HOLD_BYTES = 1.0, 64 * 1024
PAUSE_AT = 256 * 1024
"""Stop reading pipes once this many bytes are pending for their output."""
DRAIN_LIMIT = 4 * 1024 * 1024
"""Beyond this many pending bytes, not even the last output of a dead worker is read; it stays in its pipe."""
FLUSH_SECONDS = 5.0
_REQUEST = re.compile(rb'"[A-Z]+ [^"]* HTTP/[0-9.]+"')
"""A request in an access log, of any server. Skipped in tails, which would otherwise contain nothing else."""
_COLOURS = (36, 32, 33, 35, 34, 96)
OPEN_AGAIN = 5.0
"""Seconds between attempts to open a log file."""
ANSWERS_LIMIT = 1000
_STALLED_SECONDS = 0.1
"""Seconds between checks of reads that have not returned."""
GATHER_SECONDS = 0.01
GATHER_BELOW = 16 * 1024
"""Bytes per round; at or above this rate, waiting for more saves nothing."""


class Writer:
    """The log writer process."""

    def __init__(self, control: socket.socket) -> None:
        self.control = control
        self.poll = select.poll()
        self.sources: dict[int, Source] = {}
        self.streams: dict[int, Stream] = {}
        self.unfinished = Unfinished()
        self.calls = Calls()
        self.stalled: dict[Stream, Call] = {}
        """Streams with a read that has not returned."""
        self.failures: dict[str, list[tuple[str, bytes]]] = {}
        self.log_file: str | None = None
        self.max_size, self.keep = 0, 0
        """Maximum size of the log file in bytes, and number of rotated files to keep."""
        self.open_at: float | None = None
        """When to try again to open the log file."""
        self.out, self.err = Sink(1), Sink(2)
        if os.path.sameopenfile(1, 2):
            self.err = self.out
        self.taken = 0
        """Bytes read in this round."""
        self.end_by: float | None = None
        self.linger = 60.0
        self.registered: dict[int, int] = {}
        """Descriptor → registered poll events."""
        self.answers: deque[bytes] = deque()
        """Answers that the guardian has not received yet."""
        self.pinged = False
        self.rounds = 0
        self._verbs: dict[str, Callable[[dict[str, Any]], None]] = {
            "config": self._configure,
            "release": self._on_release,
            "exited": self._on_exited,
            "line": self._on_line,
            "drop": self._on_drop,
            "reopen": lambda _message: self._open_log_file(),
            "ping": self._on_ping,
        }

    # ------------------------------------------------------------ the loop

    def run(self) -> None:
        """Run until the control stream has ended and everything is written."""
        while not self._finished():
            self._register()
            self._gather()
            self._serve(self.poll.poll(self._timeout()))
            self._collect()
            now = time.monotonic()
            self._show_unfinished(now)
            for source in list(self.sources.values()):
                if source.held is not None and now >= source.hold_until:
                    self._release(source)
            if self.open_at is not None and now >= self.open_at:
                self._open_log_file()
            self._flush()
            self._turn_over()
            self._pong()
            self._send_answers()

    def _flush(self) -> None:
        before = self.out.size + self.err.size
        self.out.flush()
        self.err.flush()
        if self.end_by is not None and self.out.size + self.err.size < before and not self.answers:
            self.answers.append(json.dumps({"pong": True}).encode())

    def _show_unfinished(self, now: float) -> None:
        """Write lines that have been incomplete for a while, such as prompts."""
        for stream, due in self.unfinished.deadlines():
            # A stream that is not read because its output is slow is not idle.
            if now >= due and self._is_read(stream) and not self._read(stream) and stream.descriptor in self.streams:
                self.unfinished.forget(stream)
                self._lines(stream.source, stream.name, stream.pause())

    def _serve(self, ready: list[tuple[int, int]]) -> None:
        """Receive a request and read each ready pipe once, rotating the first one: the output may fill up."""
        self.rounds += 1
        begin = self.rounds % len(ready) if ready else 0
        for descriptor, events in ready[begin:] + ready[:begin]:
            if descriptor == self.control.fileno():
                if events & ~select.POLLOUT:
                    self._receive()
            elif descriptor in self.streams:
                stream = self.streams[descriptor]
                if self._is_read(stream):
                    self._read(stream)

    def _gather(self) -> None:
        """Wait briefly for more lines while they arrive one by one in quick succession: each wake-up is expensive.

        A message from the guardian ends the wait, and busy pipes are read without delay.
        """
        if 0 < self.taken < GATHER_BELOW and self.end_by is None:
            select.select([self.control], [], [], GATHER_SECONDS)
        self.taken = 0

    def _finished(self) -> bool:
        if self.end_by is None:
            return False
        if not self.streams:
            self.end_by = min(self.end_by, time.monotonic() + FLUSH_SECONDS)
            if not self.out.size and not self.err.size:
                return True
        return time.monotonic() >= self.end_by

    def _register(self) -> None:
        """Update the poll set to the descriptors and events of interest."""
        wanted = {}
        if self.end_by is None:
            accepted = select.POLLIN if len(self.answers) < ANSWERS_LIMIT else 0
            wanted[self.control.fileno()] = accepted | (select.POLLOUT if self.answers else 0)
        for descriptor, stream in self.streams.items():
            if self._is_read(stream):
                wanted[descriptor] = select.POLLIN
        for sink in {self.out, self.err}:
            if sink.stuck:
                wanted[sink.descriptor] = select.POLLOUT
        for descriptor in self.registered.keys() - wanted.keys():
            self.poll.unregister(descriptor)
        for descriptor, events in wanted.items() - self.registered.items():
            self.poll.register(descriptor, events)
        self.registered = wanted

    def _timeout(self) -> float | None:
        times = [source.hold_until for source in self.sources.values() if source.held is not None]
        times += [time for time in (self.end_by, self.open_at) if time is not None]
        times += [due for stream, due in self.unfinished.deadlines() if self._is_read(stream)]
        times += [time.monotonic() + _STALLED_SECONDS] if self.stalled else []
        return max(0.0, min(times) - time.monotonic()) * 1000 + 1 if times else None

    # ------------------------------------------------------------ pipes

    def _sink(self, stream: str) -> Sink:
        return self.out if stream == "out" else self.err

    def _is_read(self, stream: Stream) -> bool:
        """Return whether *stream* may be read: its output is not slow, and no read of it is pending."""
        return self._sink(stream.name).size < PAUSE_AT and stream not in self.stalled

    def _read(self, stream: Stream) -> bool:
        """Read once. Return False if there was no data or the read has not returned."""
        if stream in self.stalled:
            return False
        call = self.calls.run(os.read, stream.descriptor, CHUNK, patience=0.0 if stream.stalls else PATIENCE_SECONDS)
        if call.is_done:
            return self._take(stream, call)
        self.stalled[stream] = call
        if not stream.stalls:
            stream.stalls = True  # never wait for a read of this stream again
            why = "a process that has the pipe open keeps it locked; reading what comes when it is released"
            self._on_line({"label": "cservice", "text": f"cannot read output of {stream.source.label}: {why}"})
        return False

    def _collect(self) -> None:
        """Process the results of reads that took long."""
        for stream, call in list(self.stalled.items()):
            if call.is_done:
                del self.stalled[stream]
                if self.streams.get(stream.descriptor) is stream:
                    self._take(stream, call)

    def _take(self, stream: Stream, call: Call) -> bool:
        """Process the result of a read. Return False if there was no data."""
        try:
            data = call.result()
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            data = b""
        if not data:
            self._closed(stream)
            return False
        self.taken += len(data)
        self._lines(stream.source, stream.name, stream.lines(data))
        self.unfinished.note(stream, time.monotonic())
        return True

    def _closed(self, stream: Stream) -> None:
        self._lines(stream.source, stream.name, stream.rest())
        self._forget_descriptor(stream)
        source = stream.source
        for number, known in list(self.sources.items()):
            if known is source:
                self._tell({"closed": number, "stream": stream.name})
                if source.exited and not source.streams:
                    del self.sources[number]

    def _forget_descriptor(self, stream: Stream) -> None:
        if stream.descriptor in self.registered:
            del self.registered[stream.descriptor]
            self.poll.unregister(stream.descriptor)
        self.unfinished.forget(stream)
        del self.streams[stream.descriptor]
        del stream.source.streams[stream.name]
        self.calls.run(os.close, stream.descriptor)

    def _lines(self, source: Source, stream: str, lines: list[bytes]) -> None:
        if not lines:
            return
        telling = (line for line in reversed(lines) if not (b" HTTP/" in line and _REQUEST.search(line)))
        latest = list(islice(telling, TAIL_LINES))
        source.tail.extend(line[: 4 * TAIL_CHARACTERS] for line in reversed(latest))
        prefix = self._prefix(source.label, self._sink(stream))
        if source.held is None:
            self._sink(stream).put(prefix + (b"\n" + prefix).join(lines) + b"\n")
            return
        for line in lines:
            source.held.append((stream, line, prefix + line + b"\n"))
            source.held_size += len(line) + 64
        if source.held_size > HOLD_BYTES:
            self._release(source)

    def _prefix(self, label: str, sink: Sink) -> bytes:
        text = f"[{label}] "
        if sink.colour:
            text = f"\x1b[{_COLOURS[sum(label.encode()) % len(_COLOURS)]}m[{label}]\x1b[0m "
        if self.log_file is not None:
            now = time.time()
            text = f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.localtime(now))}.{int(now % 1 * 1000):03d}" + (
                time.strftime("%z ", time.localtime(now)) + text
            )
        return text.encode("utf-8", "replace")

    # ------------------------------------------------------------ holding back and folding

    def _release(self, source: Source, *, up: bool = True) -> None:
        """Write the lines held back and stop holding back. *up*: the source has completed its start."""
        held, source.held = source.held or [], None
        for stream, _, written in held:
            self._sink(stream).put(written)
        if up:
            self.failures.pop(source.group, None)

    def _died_early(self, source: Source) -> None:
        signature = source.signature()
        if signature and self.failures.get(source.group) == signature:
            lines = f"{len(signature)} line{'' if len(signature) == 1 else 's'}"
            source.held = None
            self.err.put(self._prefix(source.label, self.err) + f"failed as before ({lines} as above)\n".encode())
        else:
            self._release(source, up=False)
            self.failures[source.group] = signature

    # ------------------------------------------------------------ the guardian

    def _receive(self) -> None:
        try:
            data, descriptors, _ = descriptor_passing.receive(self.control, 256 * 1024, 1)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data, descriptors = b"", []
        if not data:
            self.end_by = time.monotonic() + self.linger
            self.answers.clear()
            for source in list(self.sources.values()):
                if source.held is not None:
                    self._release(source)
            return
        message = json.loads(data)
        if message["do"] == "add":
            self._add(message, descriptors)
            return
        self._verbs[message["do"]](message)

    def _configure(self, message: dict[str, Any]) -> None:
        self.linger = float(message["linger"])
        self.log_file = message["log_file"]
        self.max_size, self.keep = int(message["max_size"]), int(message["keep"])
        self._open_log_file()

    def _open_log_file(self) -> None:
        if self.log_file is None:
            return
        try:
            descriptor = files.open_for_append(self.log_file)
        except OSError as error:
            if self.open_at is None:
                why = f"cannot open {self.log_file}: {shortage.explain(error)}; retrying, writing where it did before"
                self._on_line({"label": "cservice", "text": why})
            self.open_at = time.monotonic() + OPEN_AGAIN
            return
        self.open_at = None
        new = Sink(descriptor)
        if self.out is self.err and self.out.descriptor > 2:
            self.out.flush()
            new.replaces(self.out)
            self.out.close()
        self.out = self.err = new

    def _turn_over(self) -> None:
        """Rotate the log file if it has grown too large. Rotation happens between lines, so no line is split."""
        if self.log_file is None or self.open_at is not None or self.out.size or not self.out.has_grown(self.max_size):
            return
        try:
            files.rotate(self.log_file, self.keep, self.out.descriptor)
        except OSError as error:
            self.max_size = 0  # until the next config message, so that the failure is logged only once
            why = f"cannot rotate {self.log_file}: {shortage.explain(error)}; still appending to it"
            self._on_line({"label": "cservice", "text": why})
            return
        self._open_log_file()

    def _add(self, message: dict[str, Any], descriptors: list[int]) -> None:
        number = int(message["source"])
        if not descriptors:
            self._tell({"lost": number, "stream": message["stream"]})
            return
        source = self.sources.get(number)
        if source is None:
            source = self.sources[number] = Source(str(message["label"]), time.monotonic() + HOLD_SECONDS)
            if number < 0:
                source.held = None  # the output of a master, which belongs to no group
        stream = Stream(source, str(message["stream"]), descriptors[0])
        source.streams[stream.name] = self.streams[stream.descriptor] = stream

    def _on_release(self, message: dict[str, Any]) -> None:
        source = self.sources.get(int(message["source"]))
        if source is not None and source.held is not None:
            self._release(source)

    def _on_exited(self, message: dict[str, Any]) -> None:
        number = int(message["source"])
        source = self.sources.get(number)
        if source is None:
            self._tell({"tail": number, "lines": []})
            return
        for name in ("out", "err"):  # stderr last: the cause is more likely to be there
            stream = source.streams.get(name)
            while stream is not None and self._sink(name).size < DRAIN_LIMIT and self._read(stream):
                pass
        for stream in source.streams.values():
            self._lines(source, stream.name, stream.rest())
        if source.held is not None:
            if message.get("failed"):
                self._died_early(source)
            else:
                self._release(source)
        source.exited = True
        if not source.streams:
            self.sources.pop(number, None)
        tail = [log_output.without_colours(line, TAIL_CHARACTERS) for line in source.tail]
        while _size(tail) > ANSWER_BYTES - 1024:
            del tail[0]
        self._tell({"tail": number, "lines": tail})

    def _on_line(self, message: dict[str, Any]) -> None:
        prefix = self._prefix(str(message["label"]), self.err)
        first, *more = str(message["text"]).encode("utf-8", "backslashreplace").split(b"\n")
        # Indent continuation lines, so that quoted text cannot pass for a message of ours.
        for line in (first, *(b"  " + line for line in more)):
            if self.err.size < DRAIN_LIMIT:
                self.err.put(prefix + log_output.clean(line) + b"\n")
            else:
                self.err.skip()

    def _on_drop(self, message: dict[str, Any]) -> None:
        source = self.sources.pop(int(message["source"]), None)
        for stream in list(source.streams.values()) if source is not None else ():
            self._read(stream)
            if stream.descriptor in self.streams:
                self._forget_descriptor(stream)

    def _on_ping(self, _message: dict[str, Any]) -> None:
        self.pinged = True

    def _pong(self) -> None:
        if self.pinged:
            self.pinged = False
            self._tell({"pong": True})

    def _tell(self, message: dict[str, Any]) -> None:
        if self.end_by is None:
            self.answers.append(json.dumps(message, ensure_ascii=False).encode())

    def _send_answers(self) -> None:
        """Send queued answers until the guardian accepts no more."""
        while self.answers:
            try:
                descriptor_passing.send(self.control, self.answers[0])
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in descriptor_passing.SHORTAGES:
                    return
                if error.errno not in (errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN):
                    raise
                self.answers.clear()  # the guardian is gone; the next read sees it
                return
            self.answers.popleft()


def main(descriptor: int) -> None:
    """Serve the guardian at the other end of *descriptor* until it has ended and everything is written."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGTTOU, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)  # exit only when all inputs have ended
    raise_descriptors()
    Writer(socket.socket(fileno=descriptor)).run()


def _size(lines: list[str]) -> int:
    """Return the size of *lines* in a message, in bytes."""
    return len(json.dumps(lines, ensure_ascii=False).encode())
