"""The title of a process in the process list, written over its arguments in memory, where the kernel reads them.

Uses only the standard library, from Python 3.9 on; for the guardian, the log writer and the workers. Nothing here
raises: a process that cannot set its title continues without one.
"""

from __future__ import annotations

import os
from typing import Optional, Tuple


class Title:
    """The title of this process. If other code has changed it, it is left alone from then on."""

    def __init__(self) -> None:
        self._place: Optional[Tuple[int, int]] = None
        """The address and length of the arguments in memory."""
        self._original = b""
        self._shown = b""
        """The title that we have written last."""
        self._over = False

    def set(self, text: str) -> None:
        """Show *text*, truncated to the available space."""
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
        """Restore the arguments, so that other code can set a title, and set no further one."""
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
                pass  # the memory is no longer accessible to us
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
        # The last byte is not NUL, so the title ends at its own NUL rather than with the arguments: proc(5) then reads
        # it as a title, as with setproctitle(3).
        self._shown = text[: length - 2].ljust(length - 1, b"\0") + b"."
        os.pwrite(memory, self._shown, start)


def _arguments() -> Tuple[int, int]:
    """Return the address and length of this process's arguments: arg_start and arg_end of proc(5)."""
    with open("/proc/self/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
    start, end = int(fields[45]), int(fields[46])
    if start <= 0 or end - start < 3:
        raise ValueError("the kernel does not say where the arguments are")
    return start, end - start
