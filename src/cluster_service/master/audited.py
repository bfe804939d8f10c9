"""The audit file: one line of JSON for each command that was given, of two lengths of the file at most.

It is opened for each line, so whoever moves it away (logrotate) need tell nobody. When it is full it becomes ``FILE.1``
instead of the one before. That it cannot be written is one warning; its lines stand in the log then, until it can.
"""

from __future__ import annotations

import contextlib
import os
import queue
import stat
import threading
from typing import TYPE_CHECKING

from cluster_service.machine import files

if TYPE_CHECKING:
    from collections.abc import Callable

WAITING = 1000
"""Lines that may wait for the disk."""
PATIENCE = 2.0
"""Seconds that the end of the master waits for the disk."""
FULL = 4 << 20
"""Bytes: some twenty thousand commands."""


class AuditFile:
    """The file at *path*; None: there is none. *log* takes sentences."""

    def __init__(self, path: str | None, log: Callable[[str], None], full: int = FULL) -> None:
        self.path = path
        self._log = log
        self._full = full
        self._warned = False

    def __repr__(self) -> str:
        """``<AuditFile /home/ann/.local/state/cluster-service/web.audit>``."""
        return f"<AuditFile {self.path}>"

    def write(self, line: str) -> bool:
        """Add *line*; return whether it stands in the file."""
        if self.path is None:
            return False
        try:
            self._append(self.path, line.encode("ascii") + b"\n")
        except OSError as error:
            if not self._warned:
                self._log(f"the audit file {self.path} cannot be written: {error.strerror}; the log has its lines")
            self._warned = True
            return False
        self._warned = False
        return True

    def _append(self, path: str, data: bytes) -> None:
        fd = _open(path)
        try:
            if self._is_full(fd, len(data)):
                files.rotate(path, 1, fd)
                os.close(fd)
                fd = -1
                fd = _open(path)
            os.write(fd, data)
        finally:
            if fd >= 0:
                os.close(fd)

    def _is_full(self, fd: int, more: int) -> bool:
        found = os.fstat(fd)
        return stat.S_ISREG(found.st_mode) and found.st_size > 0 and found.st_size + more > self._full


class Auditor:
    """Writes lines to *file* in a thread of its own: a disk may take its time, and the master goes on meanwhile.

    A line that is not in the file goes to *log*, which may be called from any thread.
    """

    def __init__(self, file: AuditFile, log: Callable[[str], None]) -> None:
        self._file = file
        self._log = log
        self._waiting: queue.Queue[tuple[str, bool] | None] = queue.Queue(WAITING)
        self._thread: threading.Thread | None = None

    def __repr__(self) -> str:
        """``<Auditor <AuditFile /var/log/web.audit>: 0 lines wait>``."""
        return f"<Auditor {self._file!r}: {self._waiting.qsize()} lines wait>"

    def add(self, line: str, *, aloud: bool) -> None:
        """Write *line* soon. *aloud*: to the log as well, at once."""
        if aloud:
            self._log(f"audit {line}")
        if self._file.path is None:
            self._lost(line, aloud=aloud)
            return
        try:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="audit", daemon=True)
                self._thread.start()
            self._waiting.put_nowait((line, aloud))
        except RuntimeError:  # there is no thread to be had
            self._thread = None
            self._lost(line, aloud=aloud)
        except queue.Full:
            self._lost(line, aloud=aloud)

    def close(self) -> None:
        """Return when every line is written, or the disk takes too long."""
        if self._thread is not None and self._thread.is_alive():
            with contextlib.suppress(queue.Full):
                self._waiting.put(None, timeout=PATIENCE)
                self._thread.join(PATIENCE)

    def _run(self) -> None:
        while (waiting := self._waiting.get()) is not None:
            line, aloud = waiting
            if not self._file.write(line):
                self._lost(line, aloud=aloud)

    def _lost(self, line: str, *, aloud: bool) -> None:
        if not aloud:
            self._log(f"audit {line}")


def _open(path: str) -> int:
    try:
        return files.open_for_append(path, 0o600)
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        return files.open_for_append(path, 0o600)
