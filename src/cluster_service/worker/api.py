"""What a worker's program may call. Without a service around it each of these does nothing: the file runs alone too."""

from __future__ import annotations

import os
from typing import Any, Callable, Optional

from .runtime import current


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
            _notify()
        return
    if on_worker_stop is not None:
        runtime.callback.set(on_worker_stop)
    runtime.tell_ready(bool(ready))


def is_worker() -> bool:
    """Whether this process is a worker of a service, or was started by one."""
    return "CSERVICE_SLOT" in os.environ and not is_master()


def is_master() -> bool:
    """Whether this process is the master of a service."""
    return os.environ.get("CSERVICE_ROLE") == "master"


def _notify() -> None:
    """Say READY=1, where this process is a worker that was started as a command: the first of its process group."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address or not is_worker() or os.getpgrp() != os.getpid():
        return
    import socket  # noqa: PLC0415 - only where it is needed

    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        try:
            notify.sendto(b"READY=1", socket.MSG_DONTWAIT, address)
        except OSError:
            return  # nobody listens: nothing to say
