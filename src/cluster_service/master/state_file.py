"""The state file: what the service remembers over a restart (``core.memory``), one JSON object in one file."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import stat
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from cluster_service.config import environment_files
from cluster_service.config.releases import identity_of
from cluster_service.core.readout import saved_state
from cluster_service.errors import CommandError
from cluster_service.machine import files, shortage

if TYPE_CHECKING:
    from collections.abc import Callable

    from cluster_service.core.engine.cluster import Cluster
    from cluster_service.core.model.spec import Release

MOST = 64 << 20
"""Maximum size in bytes; no service writes a larger file."""


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


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


PATIENCE = 5.0
"""Seconds that a service waits for the disk when it ends."""


TRY_AGAIN = 10.0
"""Seconds until a failed write is retried, unless the data changes before."""


class Memory:
    """The data saved in the file *path*; None: nothing is saved. *log* receives messages."""

    def __init__(self, path: str | None, log: Callable[[str], None]) -> None:
        self._log = log
        self._state: State | None = None
        self._text: str | None = None
        """What is to be written next."""
        self._writing: asyncio.Task[None] | None = None
        self._news = asyncio.Event()
        self._ending = False
        if path is not None:

            self._state = State(path, log)

    def recall(self, cluster: Cluster) -> None:
        """Restore the saved data into *cluster*, before its first step."""
        data = self._state.load() if self._state is not None else None
        if self._state is None or data is None:
            return
        try:
            for sentence in saved_state.read_saved_state(
                cluster, data, time.time() - time.monotonic(), missing, filled
            ):
                self._log(sentence)
        except (KeyError, TypeError, ValueError) as error:
            self._state.put_aside(f"it is not what a service of this version writes ({error!r})")

    def save(self, cluster: Cluster) -> None:
        """Save the current data of *cluster* soon."""
        if self._state is None:
            return
        self._text = self._state.text(saved_state.write_saved_state(cluster, time.time() - time.monotonic()))
        self._news.set()
        if self._writing is None or self._writing.done():
            self._writing = asyncio.get_running_loop().create_task(self._write(self._state))

    async def _write(self, state: State) -> None:
        while self._text is not None:
            text, self._text = self._text, None
            self._news.clear()
            if not await _written(state, text):
                self._text = self._text or text
                if self._ending:
                    return
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._news.wait(), TRY_AGAIN)

    async def settle(self) -> None:
        """Wait until the data has been written or cannot be, for at most ``PATIENCE`` seconds."""
        self._ending = True
        self._news.set()
        if self._writing is not None:
            await asyncio.wait({self._writing}, timeout=PATIENCE)


async def _written(state: State, text: str) -> bool:
    try:
        return await asyncio.to_thread(state.write, text)
    except (RuntimeError, MemoryError):  # no thread could be started
        return False


def missing(release: Release) -> str:
    """Return why *release* can no longer start, such as a missing directory, file or interpreter; otherwise ""."""
    files = [release.python] if release.python else []
    files += [release.target] if release.kind in ("script", "command") else []
    for path in (release.cwd, *files):
        if not os.path.exists(path):
            return f"{path} does not exist"
    return "" if filled(release) is not None else f"one of {', '.join(release.env_files)} cannot be read"


def filled(release: Release) -> Release | None:
    """Return *release* with the current contents of its environment files; None if they cannot be read."""
    try:
        return replace(release, env_from_files=environment_files.read(release.env_files, identity_of(release.within)))
    except CommandError:
        return None
