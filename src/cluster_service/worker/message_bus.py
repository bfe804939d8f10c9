"""The worker's end of the bus: sends requests to the master and receives broadcasts.

- Nothing blocks the program longer than its timeout: each request has a timeout, each queue a limit, and what exceeds a
  limit is refused immediately.
- The thread that reads the channel delivers all answers. In a thread with a running asyncio loop, ``trigger`` and
  ``broadcast`` return a future of that loop, elsewhere the result itself.
- If the master dies, requests that it had not started are sent again to its successor; those that it had started fail
  immediately. A command is executed at most once.
- An ``async`` message handler runs on the loop on which ``on_message`` was called, else on that of the server, else on
  a new one; any other runs in a thread. Messages are handled one at a time.
- The bus belongs to the process of the worker; a fork has none.
"""

from __future__ import annotations

import inspect
import json
import sys
from collections import deque
from itertools import count
from typing import Any, Callable, Deque, Dict, List, Optional, Tuple

from cluster_service.wire import validation
from cluster_service.wire import worker_protocol as wire

from .unpatched import allocate_lock, library, os, running_loop, start_thread

MAX_REQUESTS = 1000
"""Maximum number of open requests."""
MAX_MESSAGES = 1000
"""Maximum number of messages waiting for the handlers."""

MessageHandler = Callable[[Any], Any]


class CommandError(Exception):
    """A command failed. *code*: an error code of the control interface; *hint*: what to do about it."""

    def __init__(self, code: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint


class Request:
    """A request that waits for its answer."""

    def __init__(self, message: Dict[str, Any]) -> None:
        self.message = message
        self.taken = False
        self.result: Any = None
        self.error: Optional[CommandError] = None
        self.on_end: Optional[Callable[[], None]] = None
        self._open = allocate_lock()
        self._open.acquire()

    @property
    def what(self) -> str:
        """The name of the request in errors."""
        return str(self.message.get("name") or "broadcast")

    def settle(self, result: Any, error: Optional[CommandError]) -> None:
        """Set the answer. Called once, by the thread that removed the request from the table."""
        self.result, self.error = result, error
        self._open.release()
        if self.on_end is not None:
            self.on_end()

    def wait(self, seconds: float) -> bool:
        """Wait for the answer; return False after *seconds*."""
        return self._open.acquire(timeout=max(0.0, min(seconds, 1e6)))


class Bus:
    """The bus of this process. *offer* sends a message, or returns False if there is no room."""

    def __init__(self, offer: Callable[[Dict[str, Any]], bool]) -> None:
        self._offer = offer
        self._pid = os.getpid()
        self._numbers = count(1)
        self._requests: Dict[str, Request] = {}
        self._handlers: List[Tuple[MessageHandler, Any]] = []
        self._inbox: Deque[Any] = deque()
        self._lock = allocate_lock()
        self._working = False
        self._relay = -1
        self._gone = False
        self.loop: Any = None
        """The asyncio loop of the server, if there is one."""

    # Requests

    def ask(self, message: Dict[str, Any], on_end: Optional[Callable[[], None]] = None) -> Request:
        """Send a request; its answer settles it.

        Raises CommandError if it cannot be sent, TypeError if it is not JSON, ValueError if it is too long.
        """
        if self._pid != os.getpid():
            raise CommandError(
                "unavailable",
                "a process that a worker has forked has no bus",
                "Send the request from the worker's own process: pass it there through a pipe or a queue.",
            )
        check_size(message)
        message["id"] = f"{self._pid}.{next(self._numbers)}"
        request = Request(message)
        request.on_end = on_end
        if len(self._requests) >= MAX_REQUESTS:
            raise CommandError("too_many_requests", f"{MAX_REQUESTS} requests of this worker are still unanswered")
        self._requests[message["id"]] = request
        if self._gone or not self._offer(message):
            self._requests.pop(message["id"], None)
            why = "the service has ended" if self._gone else "the service does not read the messages of this worker"
            raise CommandError("unavailable", f"{request.what}: {why}; the request was not sent")
        return request

    def give_up(self, request: Request, seconds: float) -> None:
        """Settle a request whose timeout has expired."""
        if self._requests.pop(request.message["id"], None) is not None:
            begun = "it was started and may still be running" if request.taken else "it may not have been started"
            text = f"{request.what} was not answered within {seconds:g} s: {begun}"
            request.settle(None, CommandError("timeout", text))

    # Messages

    def add(self, handler: MessageHandler) -> None:
        """Call *handler* for each message from now on."""
        self._handlers.append((handler, running_loop()))

    def receive(self, message: Dict[str, Any]) -> None:
        """Process a message of the bus. Called in the reader thread, so it must not block."""
        if self._relay >= 0:
            try:
                os.write(self._relay, wire.encode(message))
            except OSError:
                pass  # the server process does not read: the master treats the worker as not reached
            return
        kind = message["type"]
        if kind == "message":
            self._deliver(message)
        elif kind == "master":
            self._new_master()
        elif kind == "taken":
            request = self._requests.get(str(message.get("id")))
            if request is not None:
                request.taken = True
        else:
            request = self._requests.pop(str(message.get("id")), None)
            if request is not None:
                request.settle(message.get("result"), _error_in(message))

    def end(self) -> None:
        """Fail all open requests and refuse new ones: the service has ended."""
        self._gone = True
        for name in list(self._requests):
            request = self._requests.pop(name, None)
            if request is not None:
                request.settle(None, CommandError("unavailable", f"{request.what}: the service has ended"))

    def _new_master(self) -> None:
        for name, request in list(self._requests.items()):
            if not request.taken:
                if self._offer(request.message):
                    continue
                text = f"{request.what} could not be sent to the service's new master; it was not started"
            else:
                text = f"the service's master was replaced while it carried out {request.what}: it may have completed"
            if self._requests.pop(name, None) is not None:
                request.settle(None, CommandError("unavailable", text))

    def _deliver(self, message: Dict[str, Any]) -> None:
        with self._lock:
            taken = bool(self._handlers) and len(self._inbox) < MAX_MESSAGES
            start = taken and not self._working
            if taken:
                self._inbox.append(message.get("message"))
                self._working = True
        if start and not start_thread(self._work):
            self._working = taken = False  # the interpreter is shutting down
        self._offer({"type": "got", "id": message.get("id"), "taken": taken})

    def _work(self) -> None:
        """Pass the messages to the handlers, one at a time, until none is left."""
        while True:
            with self._lock:
                if not self._inbox:
                    self._working = False
                    return
                message = self._inbox.popleft()
            for handler, loop in list(self._handlers):
                try:
                    result = handler(message)
                    if inspect.isawaitable(result):
                        self._await(result, loop)
                except BaseException as error:  # noqa: BLE001 - handlers are user code
                    _tell(handler, error)

    def _await(self, result: Any, loop: Any) -> None:
        import asyncio  # only if the program has async functions

        async def run() -> Any:
            return await result

        for candidate in (loop, self.loop):
            if candidate is not None and candidate.is_running():
                _wait(asyncio.run_coroutine_threadsafe(run(), candidate), candidate)
                return
        asyncio.run(run())

    # Processes

    def relay(self, descriptor: int) -> None:
        """Forward every message to the process that runs the server, which then uses the bus instead of this one."""
        os.set_blocking(descriptor, False)
        self._relay = descriptor

    def listen(self, descriptor: int) -> None:
        """Use the bus in this process, which receives the forwarded messages of its parent on *descriptor*."""
        self.restart()
        self._pid = os.getpid()
        os.set_blocking(descriptor, True)
        start_thread(self._listen, descriptor)

    def _listen(self, descriptor: int) -> None:
        while True:
            try:
                data = os.read(descriptor, wire.LIMIT)
            except OSError:
                return
            if not data:
                return
            try:
                self.receive(wire.decode(data))
            except wire.ChannelError:
                continue

    def restart(self) -> None:
        """Reset the state in a forked child."""
        self._lock = allocate_lock()
        self._requests.clear()
        self._inbox.clear()
        self._working = False
        self._relay = -1


def _wait(future: Any, loop: Any) -> None:
    """Wait until *future* is done or its *loop* has stopped."""
    ended = allocate_lock()
    ended.acquire()
    future.add_done_callback(lambda _future: ended.release())
    while not ended.acquire(timeout=1.0):
        if not loop.is_running():
            return
    future.result()


def check_size(message: Dict[str, Any]) -> None:
    """Raise TypeError if a message is not JSON, ValueError if it is too long."""
    try:
        data = json.dumps(message, separators=(",", ":"), allow_nan=False).encode()
        validation.loads(data, max(len(data), 1))
    except (TypeError, ValueError, RecursionError, validation.Invalid) as error:  # circular, or NaN
        raise TypeError(f"a message of the bus must be JSON: {error}") from None
    size = len(data)
    if size > wire.BUS_LIMIT:
        raise ValueError(f"a message of {size} bytes exceeds the limit of {wire.BUS_LIMIT}")


def _error_in(message: Dict[str, Any]) -> Optional[CommandError]:
    error = message.get("error")
    if not isinstance(error, dict):
        return None
    return CommandError(str(error.get("code")), str(error.get("message")), str(error.get("hint", "")))


def _tell(handler: MessageHandler, error: BaseException) -> None:
    traceback = library("traceback")
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    text = "".join(traceback.format_exception(type(error), error, trace))
    if sys.stderr is not None:
        name = getattr(handler, "__qualname__", handler)
        sys.stderr.write(f"cservice: the message handler {name} failed:\n{text}")
