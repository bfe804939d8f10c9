"""The stacks of all threads, written when the worker is sent a signal: what it was doing when it hung.

faulthandler does it in the signal's handler, in C: it needs no loop that turns, and not the GIL either. The row on the
board says where they are to be found.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from cluster_service.wire.board import STACKS_FILE, dump_signal, main_signal

if TYPE_CHECKING:
    from .pulse import Pulse


def prepare(pulse: Pulse) -> None:
    """Have this process write its stacks when it is told to. Where that cannot be, there will be none."""
    try:
        import faulthandler  # noqa: PLC0415 - it is part of CPython, and not of every other

        descriptor = os.memfd_create(STACKS_FILE.partition(":")[2])
        faulthandler.register(dump_signal(), file=descriptor, all_threads=True, chain=False)
        faulthandler.register(main_signal(), file=descriptor, all_threads=False, chain=False)
    except (ImportError, AttributeError, OSError, RuntimeError, ValueError):
        return
    pulse.tells_stacks(os.getpid(), descriptor)
