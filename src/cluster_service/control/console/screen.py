"""Lines that come by themselves, on a terminal at which somebody types.

While a prompt stands, they are shown above it; while a command shows how far it is, above that; else where the cursor
is. Whoever brings them, in threads of his own, waits when more than ``LIMIT`` characters have not been shown: memory is
bounded, and a slow terminal slows them down as it would without a console.
"""

from __future__ import annotations

import contextlib
import contextvars
import sys
import threading
from typing import TYPE_CHECKING

from prompt_toolkit.application import run_in_terminal

from cluster_service.control.session import ABOVE

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

LIMIT = 64 * 1024
"""Characters that may wait."""
GATHER = 0.03
"""Seconds for which lines are gathered while a prompt stands, which is drawn anew after each batch."""


def plain(text: str) -> None:
    """Write *text*, above the display of a command that is running."""
    with contextlib.suppress(OSError):  # nobody looks any more
        for above in ABOVE[-1:]:
            above(text.removesuffix("\n"))
            return
        sys.stdout.write(text)
        sys.stdout.flush()


class Screen:
    """What is to be shown."""

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
        """Show *text*, of whole lines. From any thread but the prompt's."""
        with self._changed:
            self._changed.wait_for(lambda: self._size < LIMIT)
            self._waiting.append(text)
            self._size += len(text)
            if self._loop is not None:
                self._call()
                return
        self._show()

    def _call(self) -> None:
        """Have the prompt's loop show what waits."""
        if not self._called and self._loop is not None:
            with contextlib.suppress(RuntimeError):  # it has just ended: ``ended`` comes next
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
        """From now on a prompt stands. To be called in its loop."""
        with self._changed:
            self._loop, self._context, self._called = loop, contextvars.copy_context(), False
            if self._waiting:
                self._call()

    def ended(self) -> None:
        """The prompt has ended."""
        with self._changed:
            self._loop = self._context = None
        self._show()
