"""A terminal of a program's own, with a screen to look at: what it shows is waited for, never slept for."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
import time
from typing import TYPE_CHECKING, Any, Self

import pyte

from tests.tools.service import CSERVICE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

DEADLINE = 40.0
"""Seconds to wait for anything; only a failure reaches it."""
LINES, COLUMNS = 40, 110
CTRL_C, CTRL_D, TAB, F2, UP = "\x03", "\x04", "\t", "\x1bOQ", "\x1b[A"


class _Emulated(pyte.HistoryScreen):
    """A screen that answers the questions that programs ask a terminal."""

    def __init__(self, answer: Callable[[str], None]) -> None:
        super().__init__(COLUMNS, LINES, history=1000)
        self._answer = answer

    def write_process_input(self, data: str) -> None:
        self._answer(data)


class Screen:
    """``with Screen("start", "app.py") as screen``: the command line, on a terminal that is its session's own."""

    def __init__(self, *arguments: str, cwd: Path | None = None, env: Mapping[str, str] | None = None,
                 command: tuple[str, ...] = (CSERVICE,)) -> None:  # fmt: skip
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
        inherited = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS", "LINES")}
        self.process = subprocess.Popen(
            [*command, *arguments], stdin=theirs, stdout=theirs, stderr=theirs, cwd=cwd,
            env={**inherited, "TERM": "xterm-256color", "HOME": "", **(env or {})},
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 - nothing else is running here
        )  # fmt: skip
        self._theirs = theirs  # held, so that what the terminal is set to can be seen when nobody else has it
        self._emulated = _Emulated(self.type)
        self._stream: Any = pyte.ByteStream(self._emulated)
        self.raw = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            print(self.story())
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._ours)
        os.close(self._theirs)

    # what is seen

    def shown(self) -> list[str]:
        """The lines on the screen, and those that have left it at its top."""
        above = [
            "".join(line[column].data for column in range(COLUMNS)).rstrip() for line in self._emulated.history.top
        ]
        return above + [line.rstrip() for line in self._emulated.display]

    def line(self) -> str:
        """The line in which the cursor is."""
        return str(self._emulated.display[self._emulated.cursor.y]).rstrip()

    def story(self) -> str:
        """What it looks like, for a failure."""
        return "\n".join(["--- the screen", *(line for line in self.shown() if line), "---"])

    def echoes(self) -> bool:
        """Whether the terminal is as a shell leaves it: it echoes and edits lines."""
        flags: int = termios.tcgetattr(self._theirs)[3]
        return bool(flags & termios.ECHO and flags & termios.ICANON and flags & termios.ISIG)

    def foreground(self) -> int:
        """The process group that has the terminal."""
        return os.tcgetpgrp(self._ours)

    # waiting

    def until(self, happened: Callable[[], object], what: str) -> None:
        """Return as soon as *happened*, which is asked again after everything that is shown."""
        end = time.monotonic() + DEADLINE
        while not happened():
            if not select.select([self._ours], [], [], max(0.0, end - time.monotonic()))[0]:
                raise AssertionError(f"waited for {what}\n{self.story()}")
            data = os.read(self._ours, 65536)
            self.raw += data
            self._stream.feed(data)

    def until_shown(self, text: str, count: int = 1) -> None:
        """Return when *text* stands on the screen, *count* times; a line may end in the middle of it."""
        self.until(lambda: _squeezed("".join(self.shown())).count(_squeezed(text)) >= count, repr(text))

    def until_prompt(self, typed: str = "", name: str = "default") -> None:
        """Return when there is a prompt, and *typed* behind it."""
        self.until_line(f"{name}> {typed}".rstrip())

    def until_line(self, wanted: str) -> None:
        """Return when the cursor's line is *wanted*."""
        self.until(lambda: self.line() == wanted, f"the line {wanted!r}")

    def until_ended(self) -> int:
        """Wait for the program's end, showing what it writes; return its exit code."""
        pidfd = os.pidfd_open(self.process.pid)
        try:
            end = time.monotonic() + DEADLINE
            while True:
                ready = select.select([self._ours, pidfd], [], [], max(0.0, end - time.monotonic()))[0]
                if self._ours in ready:
                    data = os.read(self._ours, 65536)
                    self.raw += data
                    self._stream.feed(data)
                elif pidfd in ready:
                    return self.process.wait()
                else:
                    raise AssertionError(f"waited for the end\n{self.story()}")
        finally:
            os.close(pidfd)

    # typing

    def type(self, text: str) -> None:
        """Press keys."""
        os.write(self._ours, text.encode())

    def give(self, line: str, name: str = "default") -> None:
        """Type a line at the prompt, and enter."""
        self.until_prompt(name=name)
        self.type(line)
        self.until_prompt(line, name=name)
        self.type("\r")


def _squeezed(text: str) -> str:
    return "".join(text.split())
