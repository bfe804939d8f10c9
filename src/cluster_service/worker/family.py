"""The processes related to the worker: its parent (the guardian), and its forks, which are not workers."""

from __future__ import annotations

import signal
from typing import Callable, Dict, Set

from .unpatched import get_ident, os, select


def has_died(parent: int) -> bool:
    """Return True if the process *parent*, our parent at the start, has died or dies within a second."""
    if os.getppid() != parent:
        return True
    try:
        fd = os.pidfd_open(parent)
    except (AttributeError, OSError):
        return os.getppid() != parent
    try:
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        return bool(poll.poll(1000))
    finally:
        os.close(fd)


def on_fork(be_child: Callable[[], None]) -> None:
    """Call *be_child* in each fork.

    SIGTERM is blocked until then, so that even an early one is handled by the child as its own.
    """
    masks: Dict[int, Set[int]] = {}  # of the threads that are forking

    def before() -> None:
        masks[get_ident()] = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    def in_parent() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, masks.pop(get_ident()))

    def in_child() -> None:
        mask = masks.pop(get_ident())
        masks.clear()
        be_child()
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    os.register_at_fork(before=before, after_in_parent=in_parent, after_in_child=in_child)
