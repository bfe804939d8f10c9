"""The worker's title in the process list: its service, group and slot, and what it is doing.

A program that imports ``setproctitle`` titles itself: it finds its arguments as they were, and ours is gone for good.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Optional

from cluster_service.machine.title import Title

if TYPE_CHECKING:
    from types import ModuleType

    from .runtime import Runtime


class Titles:
    """``cservice: default web.1``, and then a state. *prefix* None: there is to be no title."""

    def __init__(self, prefix: Optional[str]) -> None:
        self._prefix = prefix
        self._title = Title()
        self._pid = os.getpid()
        self._state = ""
        self.show("starting")

    def show(self, state: str) -> None:
        """Show *state*. A fork of the worker, which is none, keeps what it was born with."""
        if self._prefix is not None and self._pid == os.getpid() and state != self._state:
            self._state = state
            self._title.set(f"{self._prefix} {state}")

    def show_end(self) -> None:
        """Show that the worker was asked to stop, by the word that the service has for it."""
        if self._state not in ("draining", "stopping"):
            self.show("draining" if self._state == "serving" else "stopping")

    def of_fork(self, what: str) -> None:
        """Show *what* this fork of the worker is to it."""
        if self._prefix is not None:
            self._title.set(f"{self._prefix} {what}")

    def give_back(self) -> None:
        """Let the arguments stand there again, and be silent from now on."""
        self._title.give_back()
        self._prefix = None


def install(module: ModuleType, runtime: Runtime) -> None:
    """Make way for the module setproctitle, which looks for the arguments in memory when it is first used."""
    del module
    runtime.titles.give_back()
