"""Saving and restoring what outlives the service (``core.readout.saved_state``), in the state file (``state``).

A thread writes the file, so that a slow disk does not block the master. If the data changes during a write, only the
latest version is written next. A failed write is retried.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from cluster_service.config import envfiles
from cluster_service.config.releases import identity_of
from cluster_service.control.errors import CommandError
from cluster_service.core.readout import saved_state

if TYPE_CHECKING:
    from collections.abc import Callable

    from cluster_service.core.engine.cluster import Cluster
    from cluster_service.core.model.spec import Release

    from .state import State


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
            from .state import State  # noqa: PLC0415 - only with a state file

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
        return replace(release, env_from_files=envfiles.read(release.env_files, identity_of(release.within)))
    except CommandError:
        return None
