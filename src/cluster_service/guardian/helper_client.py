"""The helper, a child process that makes the system calls that could block the guardian, and steps that wait for it."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import socket
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from cluster_service.machine import descriptor_passing, shortage

from . import forked_child

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence

    from .event_loop import Loop
    from .forked_child import Duty
    from .process_limits import Limits

    T = TypeVar("T")
    Steps = Generator["Call", "Answer", T]

LIMIT_SECONDS = 1.0
"""Time limit of one request."""
STARVED_SECONDS = 10.0
"""Time limit of one request while the helper is runnable, and so lacks CPU time rather than being blocked."""
_STARVED_PAUSE = 0.2
"""Seconds between two checks of a runnable helper beyond ``LIMIT_SECONDS``."""
IDLE_SECONDS = 10.0
"""Time for which an idle helper is kept."""
_RETRY_SECONDS = 1.0
"""Seconds until the next attempt to pass descriptors that the helper is to close."""
_REPORT_SECONDS = 60.0
"""Seconds in which each kind of problem is logged at most once."""
_TRIES = 2
"""Maximum number of times a request is sent if helpers die for reasons other than a timeout."""


class Answer(NamedTuple):
    """Result of a request."""

    values: dict[str, Any]
    descriptors: list[int]
    """Owned by the receiver, which must close them."""
    error: int = 0
    """An errno; 0: success. ETIMEDOUT: the request took too long; ECONNABORTED: the helpers that ran it died."""
    sentence: str = ""
    """Message that describes *error*."""
    seconds: float = 0.0
    """Duration of the request."""


_CANCELLED = Answer({}, [], errno.ECANCELED, "the service is ending")


class _Request:
    """Request to the helper. *on_answer* is None if no caller needs the answer."""

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
    """Guardian's interface to the helper process. No method blocks.

    Only ``attend`` raises OSError.

    *duties* maps names to the functions that the helper can run. A duty receives the values and descriptors of a
    request; it runs in the helper, may block, and raises OSError on failure. The helper closes its copies of the
    descriptors afterwards.
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
        self._duties = {**duties, forked_child.CLOSE: forked_child.close}
        self._log = log
        self._found = found
        """Resource limits with which the guardian was started."""
        self._title = title
        self.pid: int | None = None
        self._sock: socket.socket | None = None
        self._queue: deque[_Request] = deque()
        """Strictly in order: a descriptor that is lent to a request may be passed to ``close`` before it is sent."""
        self._current: _Request | None = None
        self._idle_at: float | None = None
        self._retry_at: float | None = None
        self._leaving: set[int] = set()
        """Pids of helpers that were killed or dismissed, and have not been reaped yet."""
        self._reported: dict[str, float] = {}
        self._ended = False

    def __repr__(self) -> str:
        return f"<Helper pid {self.pid}: {len(self._queue)} requests wait>"

    # ------------------------------------------------------------ interface

    def ask(
        self, duty: str, values: dict[str, Any], descriptors: Sequence[int], on_answer: Callable[[Answer], None]
    ) -> None:
        """Queue a request to run *duty*. *on_answer* is called once, possibly before this method returns.

        *descriptors* are lent: they must stay open until then, or be passed to ``close``. Requests run in order.
        """
        self._queue.append(_Request(duty, values, list(descriptors), on_answer))
        self._go_on()

    def close(self, descriptor: int) -> None:
        """Close *descriptor* in the helper, since closing the last copy may block. The caller gives up ownership."""
        last = self._queue[-1] if self._queue else None
        if last is not None and last.on_answer is None and len(last.descriptors) < forked_child.BATCH:
            last.descriptors.append(descriptor)
        else:
            self._queue.append(_Request(forked_child.CLOSE, {}, [descriptor], None))
        self._go_on()

    @property
    def busy(self) -> bool:
        """True if a request is queued or running."""
        return bool(self._queue or self._current)

    def end(self) -> None:
        """Dismiss the helper and start no other. Complete the remaining requests with ECANCELED."""
        self._ended = True
        self._drop()
        self._finish(_CANCELLED)

    def deadline(self) -> float | None:
        """Return when to call ``tick`` next, or None."""
        times = [time for time in (self._idle_at, self._retry_at) if time is not None]
        if self._current is not None:
            times.append(self._current.due)
        return min(times, default=None)

    def tick(self, now: float) -> None:
        """Run the actions that are due at *now* (monotonic seconds)."""
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
        """Handle the exit of the child *pid*. Return whether it was a helper."""
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
        """Send the next request, unless one is running."""
        while self._ended and self._queue:
            # Descriptors that are still to be closed are closed when the guardian exits, which does not linger.
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
                for descriptor in request.descriptors:  # the helper has copies, so this is never the last close
                    os.close(descriptor)
                self._let_close()

    def _let_close(self) -> None:
        """Notify the helper that the guardian has closed its copies, so that the helper's are the last ones."""
        try:
            if self._sock is not None:
                self._sock.send(b"{}", socket.MSG_DONTWAIT)
        except OSError:  # the helper has died: its exit closes them
            return

    def _send(self, request: _Request) -> OSError | None:
        """Send *request* to the helper; start one if there is none. Return the error, or None."""
        try:
            data = json.dumps({"do": request.duty, "with": request.values}).encode()
            try:
                descriptor_passing.send(self._sock or self._start(), data, request.descriptors)
            except (BrokenPipeError, ConnectionResetError):  # it has exited but has not been reaped yet
                self._drop()
                descriptor_passing.send(self._start(), data, request.descriptors)
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
        """Receive an answer, if one has arrived."""
        sock = self._sock
        if sock is None:
            return
        try:
            size, count = forked_child.REQUEST_BYTES, forked_child.BATCH
            data, descriptors, truncated = descriptor_passing.receive(sock, size, count)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data, descriptors, truncated = b"", [], False
        if not data:
            self._loop.drop(sock.fileno())  # it has died: ``reaped`` handles that
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
        """Kill the helper, which is blocked, and complete *request* with ETIMEDOUT."""
        pid = self._drop(signal.SIGKILL)
        if request.on_answer is None:
            self._report("slow", f"helper (pid {pid}): closing descriptors took longer than {LIMIT_SECONDS:g} s")
        self._finish(Answer({}, [], errno.ETIMEDOUT, f"it took longer than {LIMIT_SECONDS:g} s"))

    def _lost(self) -> None:
        """Handle the unexpected exit of the helper: it crashed, or the kernel's OOM killer ended it, for example."""
        request = self._current
        self._drop()
        if request is None or request.on_answer is None:
            self._finish(Answer({}, []))  # its exit has closed the descriptors
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

    # ------------------------------------------------------------ process

    def _start(self) -> socket.socket:
        """Fork a helper and return the guardian's end of its socket pair. Raises OSError."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self.pid = forked_child.fork(
                theirs.fileno(), lambda kept: forked_child.serve_all(kept, self._duties), self._found, self._title
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
        """Fork a separate process that runs *attend* on *descriptor* and exits; close our copy. Raises OSError.

        For operations that a worker can block for as long as it lives: no other request waits for such a process.
        """
        self._leaving.add(forked_child.fork(descriptor, attend, self._found, self._title))
        os.close(descriptor)

    def _drop(self, number: int = 0) -> int | None:
        """Close our end of the socket pair, so that the helper exits; also send it signal *number*. Return its pid."""
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
    """Return whether the process is runnable (state R of proc_pid_stat(5)), so not blocked."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] == b"R"
    except (OSError, IndexError):
        return False


class Call(NamedTuple):
    """One request to the helper. Its *descriptors* are borrowed until it is answered."""

    duty: str
    values: dict[str, Any]
    descriptors: Sequence[int] = ()


def ask(duty: str, values: dict[str, Any], descriptors: Sequence[int] = ()) -> Steps[Answer]:
    """Let the helper run *duty*. Raises OSError if it fails, TimeoutError if it takes too long."""
    answer = yield Call(duty, values, descriptors)
    if answer.error:
        raise OSError(answer.error, answer.sentence)
    return answer


def run_here(steps: Steps[T], duties: Mapping[str, Duty]) -> T:
    """Run *steps* to their end without the helper; slow calls block here."""
    try:
        call = next(steps)
        while True:
            call = steps.send(_perform(call, duties))
    except StopIteration as stop:
        result: T = stop.value
        return result


def _perform(call: Call, duties: Mapping[str, Duty]) -> Answer:
    try:
        result = duties[call.duty](call.values, list(call.descriptors))
    except OSError as error:
        return Answer({}, [], error.errno or errno.EIO, shortage.explain(error))
    return Answer(result.values, list(result.descriptors))


class Tasks:
    """The running task and the queue of tasks. *on_fault* receives unexpected exceptions."""

    def __init__(self, helper: Helper, on_fault: Callable[[Exception], None]) -> None:
        self._helper = helper
        self._on_fault = on_fault
        self._waiting: deque[tuple[Callable[[], Steps[None] | None], Callable[[], None]]] = deque()
        self._running = False

    def __repr__(self) -> str:
        return f"<Tasks: {len(self._waiting)} wait>"

    @property
    def busy(self) -> bool:
        """Whether any task has not finished."""
        return self._running or bool(self._waiting)

    def add(self, begin: Callable[[], Steps[None] | None], done: Callable[[], None] = lambda: None) -> None:
        """Run *begin*, and the steps that it returns, after all earlier tasks; then call *done*.

        A task added again in *done* goes to the end of the queue, so that all are served in turn.
        """
        self._waiting.append((begin, done))
        self._go_on()

    def _go_on(self) -> None:
        while self._waiting and not self._running:
            begin, done = self._waiting.popleft()
            self._running = True
            try:
                steps = begin()
            except Exception as error:  # as in Loop.turn: the guardian continues
                self._on_fault(error)
                steps = None
            if steps is None:
                self._end(done)
            else:
                self._step(steps, done, None)

    def _step(self, steps: Steps[None], done: Callable[[], None], answer: Answer | None) -> None:
        try:
            call = next(steps) if answer is None else steps.send(answer)
        except StopIteration:
            self._end(done)
        except Exception as error:
            self._on_fault(error)
            self._end(done)
        else:
            self._helper.ask(call.duty, call.values, call.descriptors, lambda found: self._resume(steps, done, found))

    def _resume(self, steps: Steps[None], done: Callable[[], None], answer: Answer) -> None:
        self._step(steps, done, answer)
        self._go_on()

    def _end(self, done: Callable[[], None]) -> None:
        self._running = False
        try:
            done()
        except Exception as error:
            self._on_fault(error)
