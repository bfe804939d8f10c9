"""The history of the console, in ``$XDG_STATE_HOME/cluster-service/history``, mode 0600.

One line per entry, newest last. If the file cannot be read or written, the console silently does without. Lines that
contain an access key, variables for workers, or other likely secrets are not stored.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from prompt_toolkit.history import History

from cluster_service import rundir
from cluster_service.core.rules import redaction
from cluster_service.machine import files

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

KEPT = 1000
"""Maximum number of lines loaded; the file is truncated to them when it holds more than twice as many."""
_SECRET = re.compile(r"access.?key|--env\b|\benv[:=]|\"env\"", re.IGNORECASE)


def place(environ: Mapping[str, str] = os.environ) -> str | None:
    """Return the path of the file; None if this user has no state directory."""
    state = rundir.state_home(environ)
    return None if state is None else os.path.join(state, "history")


class FileHistory(History):
    """The history in the file at *path*; None: in memory only."""

    def __init__(self, path: str | None) -> None:
        super().__init__()
        self._path = path

    def load_history_strings(self) -> Iterable[str]:
        """Yield the lines, newest first."""
        lines = self._read()
        if len(lines) > 2 * KEPT:
            lines = lines[-KEPT:]
            self._keep("".join(line + "\n" for line in lines))
        return reversed(lines[-KEPT:])

    def store_string(self, string: str) -> None:
        """Add a line, unless it is likely to contain a secret."""
        line = " ".join(string.split("\n"))
        words = line.split()
        if not _SECRET.search(line) and redaction.redact_arguments(words) == words:
            self._add(line + "\n")

    def _read(self) -> list[str]:
        if self._path is None:
            return []
        try:
            with open(self._path, encoding="utf-8", errors="replace") as file:
                return file.read().splitlines()
        except OSError:
            return []

    def _add(self, text: str) -> None:
        if self._path is None:
            return
        try:
            os.makedirs(os.path.dirname(self._path), mode=0o700, exist_ok=True)
            with open(files.open_for_append(self._path, 0o600), "ab") as file:
                file.write(text.encode("utf-8", "replace"))
        except OSError:
            self._path = None  # continue without a file

    def _keep(self, text: str) -> None:
        if self._path is None:
            return
        try:
            files.replace(self._path, text.encode("utf-8", "replace"), 0o600, follow=False)
        except OSError:
            self._path = None
