"""Stack dumps of all threads on a signal, to show what the worker was doing when it hung.

faulthandler writes them in its signal handler, in C, which needs neither a running loop nor the GIL. It writes to the
board of the worker, at the file position of the descriptor, which nothing else uses.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from cluster_service.wire.board import STACKS_AT, dump_signal, main_signal

if TYPE_CHECKING:
    from .pulse import Pulse


def prepare(pulse: Pulse) -> None:
    """Register the stack dumps of this process; without support for them, do nothing."""
    try:
        import faulthandler  # noqa: PLC0415 - part of CPython, but not of all implementations

        descriptor = pulse.descriptor
        if os.lseek(descriptor, 0, os.SEEK_CUR) < STACKS_AT:  # otherwise an earlier process has written a dump
            os.lseek(descriptor, STACKS_AT, os.SEEK_SET)
        faulthandler.register(dump_signal(), file=descriptor, all_threads=True, chain=False)
        faulthandler.register(main_signal(), file=descriptor, all_threads=False, chain=False)
    except (ImportError, AttributeError, OSError, RuntimeError, ValueError):
        return
    pulse.writes_stacks(os.getpid())
