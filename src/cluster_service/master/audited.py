"""The audit file: one line of JSON for each command that was given, of two lengths of the file at most.

It is opened for each line, so whoever moves it away (logrotate) need tell nobody. When it is full it becomes ``FILE.1``
instead of the one before. That it cannot be written is one warning; its lines stand in the log then, until it can.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

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
        if self._is_full(path, len(data)):
            os.replace(path, path + ".1")
        try:
            fd = _open(path)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
            fd = _open(path)
        try:
            os.write(fd, data)
        finally:
            os.close(fd)

    def _is_full(self, path: str, more: int) -> bool:
        try:
            found = os.stat(path)
        except FileNotFoundError:
            return False
        return stat.S_ISREG(found.st_mode) and found.st_size + more > self._full


def _open(path: str) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
