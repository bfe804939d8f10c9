"""Reading what a program writes to a pipe, in a thread, because the program can make every read wait.

A read takes the lock of the pipe, and the program can hold it as long as it lives (see ``guardian/calls.py``). Whoever
waits for the output must be able to give up, and to kill the program, which ends the read.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

CHUNK_BYTES = 65536


def follow(pipe: int, take: Callable[[bytes], bool]) -> None:
    """Call *take* with what comes from *pipe*, and with nothing at its end or when it returns False.

    It is called in a thread. *pipe* is closed afterwards. Raises RuntimeError if no thread can be started; then it is
    still open.
    """
    threading.Thread(target=_follow, args=(pipe, take), name="output of a program", daemon=True).start()


def _follow(pipe: int, take: Callable[[bytes], bool]) -> None:
    try:
        while (data := os.read(pipe, CHUNK_BYTES)) and take(data):
            pass
    finally:
        os.close(pipe)
        take(b"")
