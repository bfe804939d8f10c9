"""The stacks of all threads, written when the worker is sent a signal: what it was doing when it hung.

faulthandler does it in the signal's handler, in C: it needs no loop that turns, and not the GIL either. It writes to
the worker's board, at the file position of the descriptor, which nothing else uses.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from cluster_service.wire.board import STACKS_AT, dump_signal, main_signal

if TYPE_CHECKING:
    from .pulse import Pulse


def prepare(pulse: Pulse) -> None:
    """Have this process write its stacks when it is told to. Where that cannot be, there will be none."""
    try:
        import faulthandler  # noqa: PLC0415 - it is part of CPython, and not of every other

        descriptor = pulse.descriptor
        if os.lseek(descriptor, 0, os.SEEK_CUR) < STACKS_AT:  # else a process before this one has written some
            os.lseek(descriptor, STACKS_AT, os.SEEK_SET)
        faulthandler.register(dump_signal(), file=descriptor, all_threads=True, chain=False)
        faulthandler.register(main_signal(), file=descriptor, all_threads=False, chain=False)
    except (ImportError, AttributeError, OSError, RuntimeError, ValueError):
        return
    pulse.writes_stacks(os.getpid())
