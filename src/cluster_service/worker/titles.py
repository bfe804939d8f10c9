"""The title of the worker in the process list: its service, group, slot and state.

If the program imports ``setproctitle``, it sets its own title: the original arguments are restored, and ours ends.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Optional

from cluster_service.machine.title import Title

if TYPE_CHECKING:
    from types import ModuleType

    from .runtime import Runtime


class Titles:
    """Titles ``cservice: default web.1 STATE``. *prefix* None: no title is set."""

    def __init__(self, prefix: Optional[str]) -> None:
        self._prefix = prefix
        self._title = Title()
        self._pid = os.getpid()
        self._state = ""
        self.show("starting")

    def show(self, state: str) -> None:
        """Show *state*. A fork of the worker keeps its title."""
        if self._prefix is not None and self._pid == os.getpid() and state != self._state:
            self._state = state
            self._title.set(f"{self._prefix} {state}")

    def show_end(self) -> None:
        """Show that the worker was asked to stop, with the name of the state in the service."""
        if self._state not in ("draining", "stopping"):
            self.show("draining" if self._state == "serving" else "stopping")

    def of_fork(self, what: str) -> None:
        """Show the role *what* of this fork of the worker."""
        if self._prefix is not None:
            self._title.set(f"{self._prefix} {what}")

    def give_back(self) -> None:
        """Restore the original arguments, and set no further titles."""
        self._title.give_back()
        self._prefix = None


def install(module: ModuleType, runtime: Runtime) -> None:
    """Restore the arguments for setproctitle, which searches for them in memory at its first use."""
    del module
    runtime.titles.give_back()
