"""The audit file: one line of JSON for each command that was given, of two lengths of the file at most.

It is opened for each line, so whoever moves it away (logrotate) need tell nobody. When it is full it becomes ``FILE.1``
instead of the one before. That it cannot be written is one warning; its lines stand in the log then, until it can.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from cluster_service.machine import files

if TYPE_CHECKING:
    from collections.abc import Callable

FULL = 4 << 20
"""Bytes: some twenty thousand commands."""


class AuditFile:
    """The file at *path*; None: there is none. *log* takes sentences."""

    def __init__(self, path: str | None, log: Callable[[str], None], full: int = FULL) -> None:
        self._path = path
        self._log = log
        self._full = full
        self._warned = False

    def __repr__(self) -> str:
        """``<AuditFile /home/ann/.local/state/cluster-service/web.audit>``."""
        return f"<AuditFile {self._path}>"

    def write(self, line: str) -> bool:
        """Add *line*; return whether it stands in the file."""
        if self._path is None:
            return False
        try:
            self._append(self._path, line.encode("ascii") + b"\n")
        except OSError as error:
            if not self._warned:
                self._log(f"the audit file {self._path} cannot be written: {error.strerror}; the log has its lines")
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


def _open(path: str) -> int:
    try:
        return files.open_for_append(path, 0o600)
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        return files.open_for_append(path, 0o600)
