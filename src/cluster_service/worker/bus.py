"""The worker's end of the bus: it asks the master, and hears what is told to the workers.

- Nothing here holds the program up for longer than it was told: each question has its time, each queue its limit, and
  what finds no room is refused at once.
- Whatever thread asks, the channel's reader brings the answer. In a thread with a running asyncio loop ``trigger`` and
  ``broadcast`` return a future of that loop, and elsewhere the result itself.
- A master may die with a question in its hands. One that it had not begun is sent again to its successor; one that it
  had fails at once: a command is carried out at most once.
- A handler of messages that is ``async`` runs on the loop on which it was given to ``on_message``, or else on that of
  the server that serves, or else on one of its own; any other runs in a thread. One message after the other.
- The bus is the worker's process's own. A fork of it has none.
"""

from __future__ import annotations

import inspect
import json
import sys
from collections import deque
from itertools import count
from typing import Any, Callable, Deque, Dict, List, Optional, Tuple

from cluster_service.wire import channel as wire
from cluster_service.wire import validation

from .midst import running_loop
from .shadowed import library
from .threads import run_beside
from .unpatched import allocate_lock, os

QUESTIONS = 1000
"""Questions that may be open at a time."""
INBOX = 1000
"""Messages that may wait for the handlers."""

MessageHandler = Callable[[Any], Any]


class CommandError(Exception):
    """A command could not be carried out. *code* is one of the error codes of the doors, *hint* what to do about it."""

    def __init__(self, code: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint


class Question:
    """What was asked, until it is answered."""

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
        """How errors name it."""
        return str(self.message.get("name") or "broadcast")

    def settle(self, result: Any, error: Optional[CommandError]) -> None:
        """Take the answer. Called once: by whoever took the question out of the table."""
        self.result, self.error = result, error
        self._open.release()
        if self.on_end is not None:
            self.on_end()

    def wait(self, seconds: float) -> bool:
        """Wait for the answer."""
        return self._open.acquire(timeout=max(0.0, min(seconds, 1e6)))


class Bus:
    """The bus of this process. *offer* sends a message, or says that there is no room."""

    def __init__(self, offer: Callable[[Dict[str, Any]], bool]) -> None:
        self._offer = offer
        self._pid = os.getpid()
        self._numbers = count(1)
        self._questions: Dict[str, Question] = {}
        self._handlers: List[Tuple[MessageHandler, Any]] = []
        self._inbox: Deque[Any] = deque()
        self._lock = allocate_lock()
        self._working = False
        self._relay = -1
        self._gone = False
        self.loop: Any = None
        """The asyncio loop of the server that serves, where there is one."""

    # Asking

    def ask(self, message: Dict[str, Any], on_end: Optional[Callable[[], None]] = None) -> Question:
        """Send a question; its answer settles it. Raises CommandError when it cannot be sent, TypeError for what is no
        JSON.
        """
        if self._pid != os.getpid():
            raise CommandError(
                "unavailable",
                "a process that a worker has forked has no bus",
                "Ask in the worker's own process: hand the question over by a pipe or a queue.",
            )
        check_size(message)
        message["id"] = f"{self._pid}.{next(self._numbers)}"
        question = Question(message)
        question.on_end = on_end
        if len(self._questions) >= QUESTIONS:
            raise CommandError("too_many_requests", f"{QUESTIONS} questions of this worker are not answered yet")
        self._questions[message["id"]] = question
        if self._gone or not self._offer(message):
            self._questions.pop(message["id"], None)
            why = "the service is gone" if self._gone else "the service does not read what this worker says"
            raise CommandError("unavailable", f"{question.what}: {why}; it was not asked")
        return question

    def give_up(self, question: Question, seconds: float) -> None:
        """Settle a question that has had its time."""
        if self._questions.pop(question.message["id"], None) is not None:
            begun = "it was begun, and may go on" if question.taken else "it may not have been begun"
            text = f"{question.what} was not answered within {seconds:g} s: {begun}"
            question.settle(None, CommandError("timeout", text))

    # Hearing

    def add(self, handler: MessageHandler) -> None:
        """Have *handler* called for each message from now on."""
        self._handlers.append((handler, running_loop()))

    def heard(self, message: Dict[str, Any]) -> None:
        """Take a message of the bus. In the reader's thread: must not block."""
        if self._relay >= 0:
            try:
                os.write(self._relay, wire.encode(message))
            except OSError:
                pass  # the server's process does not read: to the master, it was not reached
            return
        kind = message["type"]
        if kind == "message":
            self._deliver(message)
        elif kind == "master":
            self._new_master()
        elif kind == "taken":
            question = self._questions.get(str(message.get("id")))
            if question is not None:
                question.taken = True
        else:
            question = self._questions.pop(str(message.get("id")), None)
            if question is not None:
                question.settle(message.get("result"), _error_in(message))

    def end(self) -> None:
        """The service is gone: nobody answers any more."""
        self._gone = True
        for name in list(self._questions):
            question = self._questions.pop(name, None)
            if question is not None:
                question.settle(None, CommandError("unavailable", f"{question.what}: the service is gone"))

    def _new_master(self) -> None:
        for name, question in list(self._questions.items()):
            if not question.taken:
                if self._offer(question.message):
                    continue
                text = f"{question.what} could not be sent to the service's new master; it was not begun"
            else:
                text = f"the service's master was replaced while it carried out {question.what}: it may be done or not"
            if self._questions.pop(name, None) is not None:
                question.settle(None, CommandError("unavailable", text))

    def _deliver(self, message: Dict[str, Any]) -> None:
        with self._lock:
            taken = bool(self._handlers) and len(self._inbox) < INBOX
            start = taken and not self._working
            if taken:
                self._inbox.append(message.get("message"))
                self._working = True
        if start and not run_beside(self._work):
            self._working = taken = False  # the interpreter is ending
        self._offer({"type": "got", "id": message.get("id"), "taken": taken})

    def _work(self) -> None:
        """Hand the messages to the handlers, one after the other, until there is none."""
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
                except BaseException as error:  # noqa: BLE001 - whatever the program's code raises
                    _tell(handler, error)

    def _await(self, result: Any, loop: Any) -> None:
        import asyncio  # noqa: PLC0415 - only where the program has async functions

        async def run() -> Any:
            return await result

        for candidate in (loop, self.loop):
            if candidate is not None and candidate.is_running():
                _wait(asyncio.run_coroutine_threadsafe(run(), candidate), candidate)
                return
        asyncio.run(run())

    # Processes

    def relay(self, descriptor: int) -> None:
        """Pass everything on to the process that serves, which is another: it asks and hears in our stead."""
        os.set_blocking(descriptor, False)
        self._relay = descriptor

    def listen(self, descriptor: int) -> None:
        """Be the bus of this process, which hears through *descriptor* what its parent passes on."""
        self.restart()
        self._pid = os.getpid()
        os.set_blocking(descriptor, True)
        run_beside(self._listen, descriptor)

    def _listen(self, descriptor: int) -> None:
        while True:
            try:
                data = os.read(descriptor, wire.LIMIT)
            except OSError:
                return
            if not data:
                return
            try:
                self.heard(wire.decode(data))
            except wire.ChannelError:
                continue

    def restart(self) -> None:
        """Forget everything, in a process that was just forked."""
        self._lock = allocate_lock()
        self._questions.clear()
        self._inbox.clear()
        self._working = False
        self._relay = -1


def _wait(future: Any, loop: Any) -> None:
    """Wait until *future* has its result, or its *loop* runs no more."""
    ended = allocate_lock()
    ended.acquire()
    future.add_done_callback(lambda _future: ended.release())
    while not ended.acquire(timeout=1.0):
        if not loop.is_running():
            return
    future.result()


def check_size(message: Dict[str, Any]) -> None:
    """Raise TypeError for a message that is no JSON, ValueError for one that is too long."""
    try:
        data = json.dumps(message, separators=(",", ":"), allow_nan=False).encode()
        validation.loads(data, max(len(data), 1))
    except (TypeError, ValueError, RecursionError, validation.Invalid) as error:  # a circle, or not a number
        raise TypeError(f"what is sent on the bus must be JSON: {error}") from None
    size = len(data)
    if size > wire.BUS_LIMIT:
        raise ValueError(f"a message of {size} bytes is over the bus's limit of {wire.BUS_LIMIT}")


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
        sys.stderr.write(f"cservice: the handler {name} of messages failed:\n{text}")
