"""Audit entries, one line of JSON for each command that was given or refused, and the file that holds them."""

from __future__ import annotations

import contextlib
import os
import queue
import stat
import threading
import time
from typing import TYPE_CHECKING, Any

from cluster_service.commands.json_text import encode_json
from cluster_service.commands.registry import BUILT_IN
from cluster_service.core.rules.redaction import redact_text
from cluster_service.machine import files

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .access import Admission, Knock
    from .key_redaction import Redaction

PRIVATE = frozenset(("env", "args"))
"""Arguments whose values are not recorded: they may contain secrets."""
LONGEST = 200
"""Maximum length of one recorded argument or command name, in characters."""
LONGEST_READ = 4 * LONGEST
"""Maximum length of the text that is searched for secrets, in characters."""


def entry(
    knock: Knock,
    admission: Admission | None,
    command: str,
    given: Mapping[str, Any],
    outcome: str,
    seconds: float,
    redaction: Redaction | None = None,
) -> dict[str, Any]:
    """Return the entry for *command*. *seconds*: its duration. *redaction* removes access keys."""
    known = command in BUILT_IN
    hide = redaction.value if redaction is not None else _as_it_is
    return {
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "key": admission.key if admission else None,
        "door": knock.door,
        "peer": knock.peer,
        "command": _plain(command if known else hide(command[:LONGEST_READ])),
        "arguments": {
            _plain(hide(name)): _shown(value, hide) if known and name not in PRIVATE else "..."
            for name, value in given.items()
        },
        "outcome": outcome,
        "duration_s": round(seconds, 3),
    }


def line(told: Mapping[str, Any]) -> str:
    """Return the entry as one line of JSON."""
    return encode_json(told)


def _shown(value: Any, hide: Callable[[Any], Any]) -> Any:
    if value is None or isinstance(value, (bool, int, float)):
        return value
    text = value if isinstance(value, str) else encode_json(value)
    return _plain(redact_text(hide(text[:LONGEST_READ])))


def _as_it_is(value: Any) -> Any:
    return value


def _plain(text: str) -> str:
    short = text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in short)


WAITING = 1000
"""Maximum lines queued for the disk."""
PATIENCE = 2.0
"""Seconds that a master waits for the disk when it exits."""
FULL = 4 << 20
"""Maximum size of the file in bytes: about twenty thousand commands."""


class AuditFile:
    """The audit file at *path*; None: no file. *log* receives messages."""

    def __init__(self, path: str | None, log: Callable[[str], None], full: int = FULL) -> None:
        self.path = path
        self._log = log
        self._full = full
        self._warned = False

    def __repr__(self) -> str:
        """Return, for example, ``<AuditFile /home/ann/.local/state/cluster-service/web.audit>``."""
        return f"<AuditFile {self.path}>"

    def write(self, line: str) -> bool:
        """Append *line*; return True if it was written."""
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
    """Writes lines to *file* in a thread, so that a slow disk does not block the master.

    A line that cannot be written to the file goes to *log*, which must be thread-safe.
    """

    def __init__(self, file: AuditFile, log: Callable[[str], None]) -> None:
        self._file = file
        self._log = log
        self._waiting: queue.Queue[tuple[str, bool] | None] = queue.Queue(WAITING)
        self._thread: threading.Thread | None = None

    def __repr__(self) -> str:
        """Return, for example, ``<Auditor <AuditFile /var/log/web.audit>: 0 lines wait>``."""
        return f"<Auditor {self._file!r}: {self._waiting.qsize()} lines wait>"

    def add(self, line: str, *, aloud: bool) -> None:
        """Queue *line* for the file. *aloud*: also log it immediately."""
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
        except RuntimeError:  # no thread could be started
            self._thread = None
            self._lost(line, aloud=aloud)
        except queue.Full:
            self._lost(line, aloud=aloud)

    def close(self) -> None:
        """Wait until every line is written, for at most twice ``PATIENCE`` seconds."""
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
