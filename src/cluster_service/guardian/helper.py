"""The helper: a child process that makes the system calls that could make the guardian wait.

Reading another process's memory waits for a page that a FUSE file system or userfaultfd(2) does not deliver; closing
the last descriptor of a TCP socket waits as long as SO_LINGER says; looking at a path waits for the file system that
it leads to; any call on a socket waits while another process keeps the socket's lock. All of these are decided by a
worker, so none of them is made in the guardian.

The helper is forked from the guardian when there is something to do, without exec: it has the guardian's code, and
nothing else of it, since it closes every descriptor but its end of the socket pair. It runs one request at a time. A
request that takes longer than ``LIMIT_SECONDS`` costs the helper its life: it is killed, the request is answered with
ETIMEDOUT, and the next request gets a new helper. A killed process closes its sockets without lingering. The guardian
sends and receives without waiting, and does not wait for the end of a helper either. A helper without work ends after
``IDLE_SECONDS``.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import socket
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

from cluster_service.machine import passing, shortage

from . import apart

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from .apart import Duty
    from .limits import Limits
    from .watching import Loop


LIMIT_SECONDS = 1.0
"""How long one request may take."""
STARVED_SECONDS = 10.0
"""How long it may take while the helper does not wait, but lacks the processor."""
_STARVED_PAUSE = 0.2
"""Until it is looked at again then."""
IDLE_SECONDS = 10.0
"""How long a helper without work is kept."""
_RETRY_SECONDS = 1.0
"""Until descriptors are passed again that could not be passed to be closed."""
_REPORT_SECONDS = 60.0
"""In which a kind of trouble is reported once."""
_TRIES = 2
"""How often a request is sent while helpers die of something else than its taking too long."""


class Answer(NamedTuple):
    """What came of a request."""

    values: dict[str, Any]
    descriptors: list[int]
    """They belong to the receiver."""
    error: int = 0
    """An errno, 0 for none. ETIMEDOUT: it took too long; ECONNABORTED: helpers died of it."""
    sentence: str = ""
    """What belongs to *error*."""
    seconds: float = 0.0
    """How long it took."""


_CANCELLED = Answer({}, [], errno.ECANCELED, "the service is ending")


class _Request:
    """*on_answer* is None for those that nobody waits for."""

    def __init__(
        self, duty: str, values: dict[str, Any], descriptors: list[int], on_answer: Callable[[Answer], None] | None
    ) -> None:
        self.duty = duty
        self.values = values
        self.descriptors = descriptors
        self.on_answer = on_answer
        self.started = 0.0
        self.due = 0.0
        self.tries = 0


class Helper:
    """The helper process, as the guardian sees it. No method waits, and none raises an OSError.

    *duties*: what the helper can do, by name. A duty is a function of the values and descriptors of a request; it runs
    in the helper, may take its time, and raises OSError when it fails. The descriptors are closed after it.
    """

    def __init__(
        self,
        loop: Loop,
        duties: Mapping[str, Duty],
        log: Callable[[str], None],
        found: Limits | None = None,
        title: str = "",
    ) -> None:
        self._loop = loop
        self._duties = {**duties, apart.CLOSE: apart.close}
        self._log = log
        self._found = found
        """The limits of the guardian's own start."""
        self._title = title
        self.pid: int | None = None
        self._sock: socket.socket | None = None
        self._queue: deque[_Request] = deque()
        """One order for all: descriptors that a request is lent may be given to ``close`` before it is sent."""
        self._current: _Request | None = None
        self._idle_at: float | None = None
        self._retry_at: float | None = None
        self._leaving: set[int] = set()
        """Helpers that were killed or sent away, and have not ended yet."""
        self._reported: dict[str, float] = {}
        self._ended = False

    def __repr__(self) -> str:
        return f"<Helper pid {self.pid}: {len(self._queue)} requests wait>"

    # ------------------------------------------------------------ interface

    def ask(
        self, duty: str, values: dict[str, Any], descriptors: Sequence[int], on_answer: Callable[[Answer], None]
    ) -> None:
        """Let the helper run *duty*; *on_answer* is called once, later or before this returns.

        *descriptors* are lent: they must stay open until then, or be given to ``close``. Requests are run in order.
        """
        self._queue.append(_Request(duty, values, list(descriptors), on_answer))
        self._go_on()

    def close(self, descriptor: int) -> None:
        """Let the helper close *descriptor*, which the caller gives away: its last close may take long."""
        last = self._queue[-1] if self._queue else None
        if last is not None and last.on_answer is None and len(last.descriptors) < apart.BATCH:
            last.descriptors.append(descriptor)
        else:
            self._queue.append(_Request(apart.CLOSE, {}, [descriptor], None))
        self._go_on()

    @property
    def busy(self) -> bool:
        """Whether something is left to do."""
        return bool(self._queue or self._current)

    def end(self) -> None:
        """Start no further helper, and let this one end. Requests that are left are answered with ECANCELED."""
        self._ended = True
        self._drop()
        self._finish(_CANCELLED)

    def deadline(self) -> float | None:
        """Return when ``tick`` has something to do."""
        times = [time for time in (self._idle_at, self._retry_at) if time is not None]
        if self._current is not None:
            times.append(self._current.due)
        return min(times, default=None)

    def tick(self, now: float) -> None:
        """Do what has become due at *now*, of the monotonic clock."""
        current = self._current
        if current is not None and now >= current.due:
            if now < current.started + STARVED_SECONDS and _runs(self.pid):
                current.due = now + _STARVED_PAUSE
            else:
                self._kill(current)
        if self._retry_at is not None and now >= self._retry_at:
            self._retry_at = None
            self._go_on()
        if self._idle_at is not None and now >= self._idle_at:
            self._drop()

    def reaped(self, pid: int) -> bool:
        """A child of the guardian has ended. Return whether it was a helper."""
        if pid in self._leaving:
            self._leaving.discard(pid)
            return True
        if pid != self.pid:
            return False
        self.pid = None
        self._lost()
        return True

    # ------------------------------------------------------------ requests

    def _go_on(self) -> None:
        """Send the next request, unless one is being worked on."""
        while self._ended and self._queue:
            # What is to be closed after the end is closed by the exit of this process, which lingers for no socket.
            self._current = self._queue.popleft()
            self._finish(_CANCELLED, resume=False)
        while self._queue and self._current is None and self._retry_at is None:
            request = self._queue.popleft()
            error = self._send(request)
            if error is not None and request.on_answer is None:
                self._queue.appendleft(request)
                self._retry_at = self._loop.now() + _RETRY_SECONDS
                self._report("close", f"cannot pass descriptors to the helper: {shortage.explain(error)}; trying again")
                return
            self._current = request
            if error is not None:
                self._finish(Answer({}, [], error.errno or errno.EIO, shortage.explain(error)), resume=False)
            elif request.on_answer is None:
                for descriptor in request.descriptors:  # the helper holds them too, so nothing ends here
                    os.close(descriptor)
                self._let_close()

    def _let_close(self) -> None:
        """Let the helper close what it was sent: our copies are closed, so its are the last."""
        try:
            if self._sock is not None:
                self._sock.send(b"{}", socket.MSG_DONTWAIT)
        except OSError:  # it has died, and its end closes them
            return

    def _send(self, request: _Request) -> OSError | None:
        """Send *request* to a helper, which is started if there is none. Return what went wrong."""
        try:
            data = json.dumps({"do": request.duty, "with": request.values}).encode()
            try:
                passing.send(self._sock or self._start(), data, request.descriptors)
            except (BrokenPipeError, ConnectionResetError):  # it has ended, and its end was not seen yet
                self._drop()
                passing.send(self._start(), data, request.descriptors)
        except OSError as error:
            return error
        except MemoryError:
            return OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
        request.started = self._loop.now()
        request.due = request.started + LIMIT_SECONDS
        request.tries += 1
        self._idle_at = None
        return None

    def _receive(self) -> None:
        """Take an answer, if there is one."""
        sock = self._sock
        if sock is None:
            return
        try:
            data, descriptors, truncated = passing.receive(sock, apart.REQUEST_BYTES, apart.BATCH)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data, descriptors, truncated = b"", [], False
        if not data:
            self._loop.drop(sock.fileno())  # it has died: its end will be seen
            return
        reply = json.loads(data)
        if truncated:
            for descriptor in descriptors:
                os.close(descriptor)
            reply, descriptors = {"errno": errno.EMFILE, "error": shortage.SENTENCES[errno.EMFILE]}, []
        if "fault" in reply:
            self._report("fault", f"fault in the helper: {reply['fault']}")
        self._finish(Answer(reply.get("values", {}), descriptors, reply.get("errno", 0), reply.get("error", "")))

    def _finish(self, answer: Answer, *, resume: bool = True) -> None:
        request, self._current = self._current, None
        if request is not None:
            answer = answer._replace(seconds=self._loop.now() - request.started if request.started else 0.0)
        self._idle_at = self._loop.now() + IDLE_SECONDS if self._sock is not None else None
        try:
            if request is not None and request.on_answer is not None:
                request.on_answer(answer)
        finally:
            if resume:
                self._go_on()

    def _kill(self, request: _Request) -> None:
        """The helper waits for something that does not come."""
        pid = self._drop(signal.SIGKILL)
        if request.on_answer is None:
            self._report("slow", f"helper (pid {pid}): closing descriptors took longer than {LIMIT_SECONDS:g} s")
        self._finish(Answer({}, [], errno.ETIMEDOUT, f"it took longer than {LIMIT_SECONDS:g} s"))

    def _lost(self) -> None:
        """The helper has ended by itself, or was killed by somebody else: of a shortage of memory, for example."""
        request = self._current
        self._drop()
        if request is None or request.on_answer is None:
            self._finish(Answer({}, []))  # what it was to close is closed
        elif request.tries < _TRIES:
            self._current = None
            self._queue.appendleft(request)
            self._go_on()
        else:
            self._finish(Answer({}, [], errno.ECONNABORTED, "the helper ended"))

    def _report(self, kind: str, sentence: str) -> None:
        now = self._loop.now()
        if now - self._reported.get(kind, -_REPORT_SECONDS) >= _REPORT_SECONDS:
            self._reported[kind] = now
            self._log(sentence)

    # ------------------------------------------------------------ its process

    def _start(self) -> socket.socket:
        """Fork a helper and return our end of its socket pair. Raises OSError."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self.pid = apart.fork(
                theirs.fileno(), lambda kept: apart.serve_all(kept, self._duties), self._found, self._title
            )
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        self._sock = ours
        self._loop.watch(ours.fileno(), lambda _events: self._receive())
        return ours

    def attend(self, descriptor: int, attend: Callable[[int], None]) -> None:
        """Give *descriptor* away to a process of its own, which runs *attend* with it and ends. Raises OSError.

        For what a worker can block for as long as it lives: nothing else waits for such a process.
        """
        self._leaving.add(apart.fork(descriptor, attend, self._found, self._title))
        os.close(descriptor)

    def _drop(self, number: int = 0) -> int | None:
        """Close our end, by which the helper ends, and send it signal *number*. Return its pid."""
        pid = self.pid
        if pid is not None:
            self._leaving.add(pid)
            if number:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
        if self._sock is not None:
            self._loop.drop(self._sock.fileno())
            self._sock.close()
        self.pid = self._sock = self._idle_at = None
        return pid


def _runs(pid: int | None) -> bool:
    """Whether the process wants nothing but the processor."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] == b"R"
    except (OSError, IndexError):
        return False
