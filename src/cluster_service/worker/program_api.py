"""Functions for the program of a worker. Outside of a service they do nothing, so that the file also runs alone.

``command``, ``on`` and ``disable`` are for the master. A worker may import a file that calls them; here they do
nothing.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Optional

from .runtime import current
from .unpatched import library, running_loop

if TYPE_CHECKING:
    from .message_bus import Bus, MessageHandler, Request

WITHIN = 60.0
"""Default timeout for an answer, in seconds."""

_master: List[bool] = []
"""Not empty if this process is the master."""


def worker_ready(ready: bool = True, *, on_worker_stop: Optional[Callable[[], Any]] = None) -> None:  # noqa: FBT001, FBT002 - public API
    """Report that this worker is ready, or with False that it is not ready yet (call it again when it is).

    *on_worker_stop*, a function without arguments or an ``async def``, is run once when the worker is asked to stop:
    after the servers known to the runtime have answered their requests, within the announced timeout. Exceptions that
    it raises are printed. It is set even if *ready* is False; a later call replaces it. Raises TypeError if it is not
    callable.

    If the program handles SIGTERM itself, the callback runs concurrently when the stop is announced. A program that
    runs as a command, without the runtime, sends READY=1 as described in sd_notify(3), and stops in its own way.
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
    runtime.report_ready(bool(ready))


def extend_deadline(seconds: float) -> None:
    """Request *seconds* (float) more, counted from now, for an operation that is slow but does not hang.

    Until then the worker is not considered hanging even if its loop is blocked, and it may take that long to become
    ready or to stop. Call it before the operation, and again as often as needed. A program that runs as a command sends
    EXTEND_TIMEOUT_USEC as described in sd_notify(3). Raises ValueError if *seconds* is not a positive number.
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
    """Return True if this process is a worker of a service, or a descendant of one."""
    return "CSERVICE_SLOT" in os.environ and not is_master()


def is_master() -> bool:
    """Return True if this process is the master of a service."""
    return bool(_master) or os.environ.get("CSERVICE_ROLE") == "master"


def be_master() -> None:
    """Record that this process is a master, regardless of later changes of its environment."""
    _master[:] = [True]


def _bus() -> Optional[Bus]:
    runtime = current()
    return runtime.bus if runtime is not None else None


def _ask(message: Dict[str, Any], within: float, nothing: Any) -> Any:
    """Send a request and return the answer; in a thread with a running loop, return a future of it."""
    bus, loop = _bus(), running_loop()
    if bus is None:
        if loop is None:
            return nothing
        future = loop.create_future()
        future.set_result(nothing)
        return future
    if loop is not None:
        return _ask_in_loop(bus, loop, message, within)
    request = bus.ask(message)
    end = time.monotonic() + within
    if not request.wait(within):
        bus.give_up(request, within)
        request.wait(max(1.0, end - time.monotonic()))  # the answer may have just arrived
    if request.error is not None:
        raise request.error
    return request.result


def _ask_in_loop(bus: Bus, loop: Any, message: Dict[str, Any], within: float) -> Any:
    future = loop.create_future()
    requests: List[Request] = []

    def settle() -> None:
        if future.done():
            return
        if requests[0].error is not None:
            future.set_exception(requests[0].error)
        else:
            future.set_result(requests[0].result)

    def on_end() -> None:
        try:
            loop.call_soon_threadsafe(settle)
        except RuntimeError:
            pass  # the loop is closed; nothing waits for the future

    requests.append(bus.ask(message, on_end))
    timer = loop.call_later(within, bus.give_up, requests[0], within)
    future.add_done_callback(lambda _future: timer.cancel())
    return future


def trigger(name: str, /, *args: Any, within: float = WITHIN, **options: Any) -> Any:
    """Run the command *name* of the service and return its result; if there is none, publish *name* as an event.

    *args*: positional arguments; *options*: arguments by name; JSON, at most 60 KB. *within*: timeout in seconds. In a
    coroutine, ``await`` the result. Returns None outside of a service. Raises CommandError (``timeout``, ``forbidden``,
    or the error of the command), and TypeError or ValueError for arguments that cannot be sent.
    """
    return _ask({"type": "trigger", "name": str(name), "args": list(args), "options": options}, within, None)


def broadcast(message: Any, group: Optional[str] = None, *, within: float = WITHIN) -> Any:
    """Send *message* (JSON, at most 60 KB) to the workers of *group* or to all, including this one if it has a handler.

    Returns the number of workers that accepted it. In a coroutine, ``await`` the result. Returns 0 outside of a
    service. Raises the same errors as ``trigger``.
    """
    return _ask({"type": "broadcast", "message": message, "group": group}, within, 0)


def on_message(handler: MessageHandler) -> MessageHandler:
    """Call *handler(message)* for each broadcast. Usable as a decorator. Does nothing outside of a worker.

    A function runs in a thread; an ``async def`` runs on the loop that is running at this call, else on that of the
    server. Exceptions are printed. If 1000 messages are waiting, further ones are dropped and
    not counted for their sender. Raises TypeError if *handler* is not callable.
    """
    if not callable(handler):
        raise TypeError(f"the handler of messages must be callable, not {type(handler).__name__}")
    bus = _bus()
    if bus is not None:
        bus.add(handler)
    return handler


class Context:
    """The first argument of a custom command, for annotations. Commands run in the master."""


def command(name: Any = None, **_options: Any) -> Any:
    """Return the function unchanged: commands are defined in the master only."""
    return name if callable(name) else lambda handler: handler


def on(name: str, handler: Any = None, **_options: Any) -> Any:
    """Return the handler unchanged: events are handled in the master only."""
    del name
    return handler if handler is not None else lambda function: function


def disable(name: str) -> None:
    """Do nothing: commands are disabled in the master only."""
    del name


def _notify(fields: Dict[str, str]) -> None:
    """Send *fields* to NOTIFY_SOCKET if this process is a worker started as a command, i.e. leads its process group."""
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
            return  # no process listens
