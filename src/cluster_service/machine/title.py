"""What the process list says of a process: written over its own arguments, where the kernel looks for them.

Standard library only, Python 3.9 or later: the guardian, the log writer and the workers have a title of it. Nothing
here ever fails: a process that cannot have a title goes on without.
"""

from __future__ import annotations

import os
from typing import Optional, Tuple


class Title:
    """The title of this process. One that somebody else has set is left alone for good."""

    def __init__(self) -> None:
        self._place: Optional[Tuple[int, int]] = None
        """Where the arguments are in memory, and how long."""
        self._original = b""
        self._shown = b""
        """What stands there, as far as we know."""
        self._over = False

    def set(self, text: str) -> None:
        """Show *text*, as much of it as there is room for."""
        if self._over:
            return
        try:
            memory = os.open("/proc/self/mem", os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            self._over = True
            return
        try:
            self._write(memory, text.encode("utf-8", "replace"))
        except (OSError, ValueError, IndexError):
            self._over = True
        finally:
            os.close(memory)

    def give_back(self) -> None:
        """Let the arguments stand there again, for somebody else to write over, and say no more."""
        if self._place is not None and not self._over:
            place, length = self._place
            try:
                memory = os.open("/proc/self/mem", os.O_RDWR | os.O_CLOEXEC)
                try:
                    if os.pread(memory, length, place) == self._shown:
                        os.pwrite(memory, self._original, place)
                finally:
                    os.close(memory)
            except OSError:
                pass  # then it is none of ours that stands there
        self._over = True

    def _write(self, memory: int, text: bytes) -> None:
        if self._place is None:
            start, length = _arguments()
            self._original = self._shown = os.pread(memory, length, start)
            self._place = (start, length)
        start, length = self._place
        if os.pread(memory, length, start) != self._shown:
            self._over = True
            return
        # The title ends at its NUL, rather than with the arguments, where their last byte is none: proc(5) reads a
        # title then, as setproctitle(3) leaves it.
        self._shown = text[: length - 2].ljust(length - 1, b"\0") + b"."
        os.pwrite(memory, self._shown, start)


def _arguments() -> Tuple[int, int]:
    """Return where the arguments of this process begin, and how many bytes they are: arg_start, arg_end of proc(5)."""
    with open("/proc/self/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
    start, end = int(fields[45]), int(fields[46])
    if start <= 0 or end - start < 3:
        raise ValueError("the kernel does not say where the arguments are")
    return start, end - start
