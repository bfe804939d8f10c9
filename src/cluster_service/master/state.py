"""What is remembered over a restart of the whole service: one JSON object in one file, of the setting ``state``.

The file is always whole: it is written beside itself, and then takes its own place. Whatever is wrong with it never
keeps a service from running: a file that cannot be read, or that others could have written (it says what programs to
run), is put aside as FILE.bad; a file that cannot be written is a warning, once, and is tried again.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import sys
from typing import TYPE_CHECKING, Any

from cluster_service.machine import shortage

if TYPE_CHECKING:
    from collections.abc import Callable

MOST = 64 << 20
"""Bytes; a larger file is not ours."""


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)  # noqa: T201


class State:
    """The file *path*. *warn* is given sentences for the log."""

    def __init__(self, path: str, warn: Callable[[str], None] = _say) -> None:
        self.path = os.path.realpath(path)
        self._warn = warn
        self._written: str | None = None
        self._failed = False

    def load(self) -> dict[str, Any] | None:
        """Return what was saved last, or None when there is nothing to be used."""
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
        """Keep *data*. Blocking: it waits for the disk. Raises nothing. Returns False when it is to be tried again."""
        return self.write(self.text(data))

    def text(self, data: dict[str, Any]) -> str:
        """Return *data* as it stands in the file."""
        return json.dumps(data, indent=1) + "\n"

    def write(self, text: str) -> bool:
        """Write *text*, unless it is what the file holds. Blocking: it waits for the disk. Raises nothing.

        Returns False when it is to be tried again.
        """
        if text == self._written:
            return True
        try:
            self._write(text)
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
        """Raises OSError, UnicodeDecodeError, and ValueError with a sentence."""
        fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
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
        """What is in the file cannot be used, because of *why*: keep it as FILE.bad, and say so."""
        self._written = None
        aside = f"{self.path}.bad"
        try:
            os.replace(self.path, aside)
        except OSError as error:
            self._warn(f"the state in {self.path} is not used: {why}; it cannot be put aside either: {error.strerror}")
        else:
            self._warn(f"the state in {self.path} is not used: {why}; it is kept as {aside}")

    def _write(self, text: str) -> None:
        folder = os.path.dirname(self.path)
        new = f"{self.path}.new"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(new)  # of a service that was killed while it wrote
        try:
            fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with open(fd, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(fd)
            os.replace(new, self.path)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(new)
            raise
        directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
