"""The state file (setting ``state``): one JSON object that outlives a restart of the whole service.

The file is always complete: a temporary file is written and renamed. Nothing that is wrong with the file keeps a
service from running. A file that cannot be read, or that other users could have written (it names programs to run), is
renamed to FILE.bad. A failed write causes one warning and is retried.
"""

from __future__ import annotations

import json
import os
import stat
import sys
from typing import TYPE_CHECKING, Any

from cluster_service.machine import files, shortage

if TYPE_CHECKING:
    from collections.abc import Callable

MOST = 64 << 20
"""Maximum size in bytes; no service writes a larger file."""


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)  # noqa: T201


class State:
    """The file *path*. *warn* receives messages for the log."""

    def __init__(self, path: str, warn: Callable[[str], None] = _say) -> None:
        self.path = os.path.abspath(path)
        self._warn = warn
        self._written: str | None = None
        self._failed = False

    def load(self) -> dict[str, Any] | None:
        """Return the data saved last, or None if there is none that can be used."""
        try:
            text = self._read()
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            self.put_aside(getattr(error, "strerror", None) or "it is not text")
            return None
        except ValueError as error:
            self.put_aside(str(error))
            return None
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            self.put_aside(f"it is not JSON: {error}")
            return None
        if not isinstance(data, dict):
            self.put_aside("it holds no JSON object")
            return None
        self._written = text
        return data

    def save(self, data: dict[str, Any]) -> bool:
        """Write *data*. Blocks on the disk. Raises nothing. Return False if the write must be retried."""
        return self.write(self.text(data))

    def text(self, data: dict[str, Any]) -> str:
        """Return *data* in the format of the file."""
        return json.dumps(data, indent=1) + "\n"

    def write(self, text: str) -> bool:
        """Write *text* unless the file already contains it. Blocks on the disk. Raises nothing.

        Return False if the write must be retried.
        """
        if text == self._written:
            return True
        try:
            files.replace(self.path, text.encode(), 0o600, follow=True, sync=True)
        except OSError as error:
            if not self._failed:
                self._warn(f"the state cannot be written to {self.path}: {shortage.explain(error)}; it is tried again")
            self._failed = True
            return False
        if self._failed:
            self._warn(f"the state is written to {self.path} again")
        self._written, self._failed = text, False
        return True

    def _read(self) -> str:
        """Return the contents of the file. Raises OSError, UnicodeDecodeError, and ValueError with the reason."""
        fd = files.open_for_reading(self.path)
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode) or found.st_size > MOST:
                raise ValueError("it is no file of ours")
            if found.st_uid not in (0, os.geteuid()):
                raise ValueError(f"it belongs to user {found.st_uid}, and says what programs to run")
            if stat.S_IMODE(found.st_mode) & 0o022:
                raise ValueError("others can write it, and it says what programs to run")
            with open(fd, "rb", closefd=False) as file:
                return file.read().decode()
        finally:
            os.close(fd)

    def put_aside(self, why: str) -> None:
        """Rename the file to FILE.bad because of *why*, and log that."""
        self._written = None
        aside = f"{self.path}.bad"
        try:
            files.add_suffix(self.path, ".bad")
        except OSError as error:
            self._warn(f"the state in {self.path} is not used: {why}; it cannot be put aside either: {error.strerror}")
        else:
            self._warn(f"the state in {self.path} is not used: {why}; it is kept as {aside}")
