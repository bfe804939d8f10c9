"""Lines that arrive by themselves on a terminal with a prompt.

They are displayed above the prompt or above the progress of a command, else at the cursor. The threads that produce
them block while ``LIMIT`` characters wait, so memory is bounded, and a slow terminal slows the producers down as it
would without a console.
"""

from __future__ import annotations

import contextlib
import contextvars
import sys
import threading
from typing import TYPE_CHECKING

from prompt_toolkit.application import run_in_terminal

from cluster_service.cli.output import ABOVE

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

LIMIT = 64 * 1024
"""Maximum number of waiting characters."""
GATHER = 0.03
"""Seconds for which lines are collected while there is a prompt, which is redrawn after each batch."""


def plain(text: str) -> None:
    """Write *text*, above the progress of a running command."""
    with contextlib.suppress(OSError):  # the terminal has gone
        for above in ABOVE[-1:]:
            above(text.removesuffix("\n"))
            return
        sys.stdout.write(text)
        sys.stdout.flush()


class Screen:
    """The lines waiting to be displayed."""

    def __init__(self, write: Callable[[str], None] = plain) -> None:
        self._write = write
        self._changed = threading.Condition()
        self._writing = threading.Lock()
        self._waiting: list[str] = []
        self._size = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._context: contextvars.Context | None = None
        self._called = False

    def put(self, text: str) -> None:
        """Display *text*, which consists of whole lines. Call it from any thread except that of the prompt."""
        with self._changed:
            self._changed.wait_for(lambda: self._size < LIMIT)
            self._waiting.append(text)
            self._size += len(text)
            if self._loop is not None:
                self._call()
                return
        self._show()

    def _call(self) -> None:
        """Let the event loop of the prompt display the waiting lines."""
        if not self._called and self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has just ended: ``ended`` follows
                self._loop.call_soon_threadsafe(
                    lambda: self._loop and self._loop.call_later(GATHER, self._above), context=self._context
                )
                self._called = True

    def _above(self) -> None:
        self._called = False
        run_in_terminal(self._show)

    def _show(self) -> None:
        with self._writing:
            with self._changed:
                text = "".join(self._waiting)
                self._waiting.clear()
                self._size = 0
                self._changed.notify_all()
            if text:
                self._write(text)

    def prompting(self, loop: asyncio.AbstractEventLoop) -> None:
        """Display lines above the prompt from now on. Call it in the event loop of the prompt."""
        with self._changed:
            self._loop, self._context, self._called = loop, contextvars.copy_context(), False
            if self._waiting:
                self._call()

    def ended(self) -> None:
        """Display lines at the cursor from now on: the prompt has ended."""
        with self._changed:
            self._loop = self._context = None
        self._show()
