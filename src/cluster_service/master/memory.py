"""The state file: what the service remembers (``core.memory``), kept where the next service of its kind finds it."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from cluster_service.core import memory

if TYPE_CHECKING:
    from collections.abc import Callable

    from cluster_service.core.cluster import Cluster
    from cluster_service.core.spec import Release

    from .state import State


class Memory:
    """What is remembered in the file *path*; None: nothing. *log* takes sentences."""

    def __init__(self, path: str | None, log: Callable[[str], None]) -> None:
        self._log = log
        self._state: State | None = None
        if path is not None:
            from .state import State  # noqa: PLC0415 - only where something is to be remembered

            self._state = State(path, log)

    def recall(self, cluster: Cluster) -> None:
        """Let *cluster*, which has not begun, go on where the last service ended."""
        data = self._state.load() if self._state is not None else None
        if self._state is None or data is None:
            return
        try:
            for sentence in memory.recall(cluster, data, time.time() - time.monotonic(), missing):
                self._log(sentence)
        except (KeyError, TypeError, ValueError) as error:
            self._state.put_aside(f"it is not what a service of this version writes ({error!r})")

    def save(self, cluster: Cluster) -> None:
        """Keep what is to be remembered now."""
        if self._state is not None:
            self._state.save(memory.remember(cluster, time.time() - time.monotonic()))


def missing(release: Release) -> str:
    """Return why *release* cannot be started any more: its directory, file or interpreter is gone. Else ""."""
    files = [release.python] if release.python else []
    files += [release.target] if release.kind != "app" else []
    for path in (release.cwd, *files):
        if not os.path.exists(path):
            return f"{path} does not exist"
    return ""
