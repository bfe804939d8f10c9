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
import gc
import json
import os
import select
import signal
import socket
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from cluster_service.machine import passing, shortage
from cluster_service.machine.title import Title

from . import child, limits, posix

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from .limits import Limits
    from .loop import Loop

    Duty = Callable[[dict[str, Any], list[int]], "Result"]

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
_BATCH = 253
"""Descriptors in one message: SCM_MAX_FD of the kernel."""
_REQUEST_BYTES = 64 * 1024
_TRIES = 2
"""How often a request is sent while helpers die of something else than its taking too long."""
_CLOSE = "close"


class Result(NamedTuple):
    """What a duty returns: *values*, which go through JSON, and *descriptors*, which the helper closes once sent."""

    values: dict[str, Any]
    descriptors: Sequence[int] = ()


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
        self._duties = {**duties, _CLOSE: _close}
        self._log = log
        self._found = found
        """The limits of the guardian's own start."""
        self._title = title
        self.pid: int | None = None
        self._sock: socket.socket | None = None
        self._requests: deque[_Request] = deque()
        self._closing: deque[int] = deque()
        self._current: _Request | None = None
        self._idle_at: float | None = None
        self._retry_at: float | None = None
        self._leaving: set[int] = set()
        """Helpers that were killed or sent away, and have not ended yet."""
        self._reported: dict[str, float] = {}
        self._ended = False

    def __repr__(self) -> str:
        return f"<Helper pid {self.pid}: {len(self._requests)} requests, {len(self._closing)} descriptors to close>"

    # ------------------------------------------------------------ interface

    def ask(
        self, duty: str, values: dict[str, Any], descriptors: Sequence[int], on_answer: Callable[[Answer], None]
    ) -> None:
        """Let the helper run *duty*; *on_answer* is called once, later or before this returns.

        *descriptors* are lent: they must stay open until then, or be given to ``close``. Requests are run in order.
        """
        self._requests.append(_Request(duty, values, list(descriptors), on_answer))
        self._go_on()

    def close(self, descriptor: int) -> None:
        """Let the helper close *descriptor*, which the caller gives away: its last close may take long."""
        self._closing.append(descriptor)
        self._go_on()

    @property
    def busy(self) -> bool:
        """Whether something is left to do."""
        return bool(self._requests or self._closing or self._current)

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
        while self._ended and self._requests:
            self._current = self._requests.popleft()
            self._finish(_CANCELLED, resume=False)
        # What is to be closed after the end is closed by the exit of this process, which lingers for no socket.
        while not self._ended and self._current is None and self._retry_at is None and self.busy:
            request = self._next()
            error = self._send(request)
            if error is not None and request.on_answer is None:
                self._retry_at = self._loop.now() + _RETRY_SECONDS
                self._report("close", f"cannot pass descriptors to the helper: {shortage.explain(error)}; trying again")
                return
            self._current = request
            if error is not None:
                self._finish(Answer({}, [], error.errno or errno.EIO, shortage.explain(error)), resume=False)
            elif request.on_answer is None:
                for descriptor in request.descriptors:  # the helper holds them too, so nothing ends here
                    self._closing.popleft()
                    os.close(descriptor)
                self._let_close()

    def _let_close(self) -> None:
        """Let the helper close what it was sent: our copies are closed, so its are the last."""
        try:
            if self._sock is not None:
                self._sock.send(b"{}", socket.MSG_DONTWAIT)
        except OSError:  # it has died, and its end closes them
            return

    def _next(self) -> _Request:
        if self._closing:
            some = [self._closing[at] for at in range(min(_BATCH, len(self._closing)))]
            return _Request(_CLOSE, {}, some, None)
        return self._requests.popleft()

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
            data, descriptors, truncated = passing.receive(sock, _REQUEST_BYTES, _BATCH)
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
            self._requests.appendleft(request)
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
            self.pid = fork(theirs.fileno(), lambda kept: _serve_all(kept, self._duties), self._found, self._title)
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
        self._leaving.add(fork(descriptor, attend, self._found, self._title))
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


# ------------------------------------------------------------------ in the helper


def fork(kept: int, run: Callable[[int], None], found: Limits | None, title: str) -> int:
    """Fork a process that runs *run* with descriptor *kept*, which is all that it has of ours. Return its pid.

    It is killed when the guardian ends. Raises OSError.
    """
    guardian = os.getpid()
    # As in spawn.launch: a signal must not run the guardian's handlers in the child.
    blocked = signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
    try:
        pid = os.fork()
        if pid == 0:
            _be(kept, run, guardian, found, title)
    except BlockingIOError:
        raise OSError(errno.EAGAIN, shortage.NO_PROCESS) from None
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    return pid


def _be(kept: int, run: Callable[[int], None], guardian: int, found: Limits | None, title: str) -> NoReturn:
    """Be the process that ``fork`` has made. It never returns to the guardian's code."""
    try:
        gc.disable()  # a collection would write to every page, and so copy what is shared with the guardian
        posix.prctl(posix.PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != guardian:
            os._exit(1)
        os.setpgid(0, 0)  # what a terminal sends to the guardian's group is not for it
        child.reset_signals()
        null = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(null, number)
        os.dup2(kept, 3)
        os.closerange(4, 1 << 20)
        if found is not None:
            limits.put_on(found._replace(rlimits={}), lambda _sentence: None)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        if title:
            Title().set(title)
        run(3)
        os._exit(0)
    finally:
        os._exit(1)


def _serve_all(kept: int, duties: Mapping[str, Duty]) -> None:
    with socket.socket(fileno=kept) as pair:
        while _serve(pair, duties):
            posix.prctl(posix.PR_SET_PDEATHSIG, signal.SIGKILL)  # which a change of identity has cleared


def _serve(pair: socket.socket, duties: Mapping[str, Duty]) -> bool:
    """Run one request. False when the guardian has closed its end."""
    select.select([pair], [], [])
    data, descriptors, truncated = passing.receive(pair, _REQUEST_BYTES, _BATCH)
    if not data:
        return False
    result = Result({})
    try:
        request = json.loads(data)
        if request["do"] == _CLOSE:
            pair.recv(_REQUEST_BYTES)  # the guardian has closed its copies: ours are the last
        if truncated:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        result = duties[request["do"]](request["with"], descriptors)
        reply: dict[str, Any] = {"values": result.values}
    except OSError as error:
        reply = {"errno": error.errno or errno.EIO, "error": shortage.explain(error)}
    except MemoryError as error:
        reply = {"errno": errno.ENOMEM, "error": shortage.explain(error)}
    except Exception as error:  # noqa: BLE001 - reported
        reply = {"errno": errno.EIO, "error": repr(error), "fault": repr(error)}
    for descriptor in descriptors:
        with contextlib.suppress(OSError):  # EBADF: the duty has closed it
            os.close(descriptor)
    try:
        select.select([], [pair], [])
        passing.send(pair, json.dumps(reply).encode(), list(result.descriptors))
    except OSError:  # the guardian is gone, or has closed its end
        return False
    for descriptor in result.descriptors:
        os.close(descriptor)
    return True


def _close(_values: dict[str, Any], descriptors: list[int]) -> Result:
    """Do nothing: every request's descriptors are closed after it. Sockets are kept from lingering."""
    for descriptor in descriptors:
        with contextlib.suppress(OSError):
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, fileno=descriptor)  # of whatever family it is
            try:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\0" * 8)
            finally:
                sock.detach()
    return Result({})
