"""What a worker's program may call. Without a service around it each of these does nothing: the file runs alone too.

``command``, ``on`` and ``disable`` are the master's. A worker may import a file that calls them: here they do nothing.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Optional

from .midst import running_loop
from .runtime import current
from .shadowed import library

if TYPE_CHECKING:
    from .bus import Bus, MessageHandler, Question

WITHIN = 60.0
"""Seconds that an answer may take when the caller does not say."""

_master: List[bool] = []
"""Not empty: this process is the master."""


def worker_ready(ready: bool = True, *, on_worker_stop: Optional[Callable[[], Any]] = None) -> None:  # noqa: FBT001, FBT002
    """Say that this worker serves, or with False that it does not yet (then say it again when it does).

    *on_worker_stop*, a function without arguments or an ``async def``, is run once when the worker is asked to stop:
    after the servers that the runtime knows have answered what they held, within the stop's announced timeout. What it
    raises is printed. It is set even when *ready* is False; a later call replaces it. Raises TypeError when it cannot
    be called.

    A program that handles SIGTERM in its own way has it run beside that, when the stop is announced. A program that
    runs as a command, without the runtime, says READY=1 as sd_notify(3) describes, and ends in its own way.
    """
    if on_worker_stop is not None and not callable(on_worker_stop):
        raise TypeError(f"on_worker_stop must be a function without arguments, not {type(on_worker_stop).__name__}")
    runtime = current()
    if runtime is None:
        if ready:
            _notify({"READY": "1"})
        return
    if on_worker_stop is not None:
        runtime.callback.set(on_worker_stop)
    runtime.tell_ready(bool(ready))


def extend_deadline(seconds: float) -> None:
    """Ask for *seconds* (float) more, from now on, for something that takes its time and is no hang.

    Until then the worker is not taken for hung, however still its loop stands; it may take that long to become ready,
    and to stop. Say it before the work begins, and again as often as is needed. A program that runs as a command says
    EXTEND_TIMEOUT_USEC as sd_notify(3) describes. Raises ValueError when *seconds* is not a positive number.
    """
    if not 0 < seconds < float("inf"):
        raise ValueError(f"a deadline is extended by a positive number of seconds, not by {seconds!r}")
    fields = {"EXTEND_TIMEOUT_USEC": str(int(seconds * 1e6))}
    runtime = current()
    if runtime is None:
        _notify(fields)
    else:
        runtime.notify(fields)


def is_worker() -> bool:
    """Whether this process is a worker of a service, or was started by one."""
    return "CSERVICE_SLOT" in os.environ and not is_master()


def is_master() -> bool:
    """Whether this process is the master of a service."""
    return bool(_master) or os.environ.get("CSERVICE_ROLE") == "master"


def be_master() -> None:
    """Take note that this process is a master, whatever its environment says from now on."""
    _master[:] = [True]


def _bus() -> Optional[Bus]:
    runtime = current()
    return runtime.bus if runtime is not None else None


def _ask(message: Dict[str, Any], within: float, nothing: Any) -> Any:
    """Ask and return the answer, or in a thread with a running loop a future of it."""
    bus, loop = _bus(), running_loop()
    if bus is None:
        if loop is None:
            return nothing
        future = loop.create_future()
        future.set_result(nothing)
        return future
    if loop is not None:
        return _ask_in_loop(bus, loop, message, within)
    question = bus.ask(message)
    end = time.monotonic() + within
    if not question.wait(within):
        bus.give_up(question, within)
        question.wait(max(1.0, end - time.monotonic()))  # answered at the very moment, perhaps
    if question.error is not None:
        raise question.error
    return question.result


def _ask_in_loop(bus: Bus, loop: Any, message: Dict[str, Any], within: float) -> Any:
    future = loop.create_future()
    asked: List[Question] = []

    def settle() -> None:
        if future.done():
            return
        if asked[0].error is not None:
            future.set_exception(asked[0].error)
        else:
            future.set_result(asked[0].result)

    def on_end() -> None:
        try:
            loop.call_soon_threadsafe(settle)
        except RuntimeError:
            pass  # the loop is closed, and whoever waited is gone

    asked.append(bus.ask(message, on_end))
    timer = loop.call_later(within, bus.give_up, asked[0], within)
    future.add_done_callback(lambda _future: timer.cancel())
    return future


def trigger(name: str, /, *args: Any, within: float = WITHIN, **options: Any) -> Any:
    """Give the service's command *name*, and return its result; a name that is no command's is told as an event.

    *args*: by their place; *options*: by name; JSON, 60 KB at most. *within*: seconds for the answer. In a coroutine:
    ``await`` it. Outside a service: None. Raises CommandError (``timeout``, ``forbidden``, what the command raised),
    TypeError and ValueError for arguments that cannot be sent.
    """
    return _ask({"type": "trigger", "name": str(name), "args": list(args), "options": options}, within, None)


def broadcast(message: Any, group: Optional[str] = None, *, within: float = WITHIN) -> Any:
    """Send *message* (JSON, 60 KB at most) to the workers of *group*, or to all: this one too, if it has a handler.

    Returns how many of them took it. In a coroutine: ``await`` it. Outside a service: 0. Raises as ``trigger`` does.
    """
    return _ask({"type": "broadcast", "message": message, "group": group}, within, 0)


def on_message(handler: MessageHandler) -> MessageHandler:
    """Have *handler(message)* called for each broadcast. Usable as a decorator. Outside a worker nothing happens.

    A function runs in a thread, an ``async def`` on the loop that runs where this is called, else on the server's. What
    it raises is printed. Messages that find 1000 others waiting are dropped, and their sender told. Raises TypeError.
    """
    if not callable(handler):
        raise TypeError(f"the handler of messages must be callable, not {type(handler).__name__}")
    bus = _bus()
    if bus is not None:
        bus.add(handler)
    return handler


class Context:
    """The first argument of a custom command, for annotations: commands run in the master."""


def command(name: Any = None, **_options: Any) -> Any:
    """Commands are the master's: in a worker, the function stays what it is."""
    return name if callable(name) else lambda handler: handler


def on(name: str, handler: Any = None, **_options: Any) -> Any:
    """Events are heard in the master: in a worker, nothing happens."""
    del name
    return handler if handler is not None else lambda function: function


def disable(name: str) -> None:
    """Commands are the master's: in a worker, nothing happens."""
    del name


def _notify(fields: Dict[str, str]) -> None:
    """Say *fields*, where this process is a worker that was started as a command: the first of its process group."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address or not is_worker() or os.getpgrp() != os.getpid():
        return
    socket = library("socket")
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        try:
            notify.sendto("\n".join(map("=".join, fields.items())).encode(), socket.MSG_DONTWAIT, address)
        except OSError:
            return  # nobody listens: nothing to say
