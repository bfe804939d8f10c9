"""A terminal of its own for a program, whose end the test holds: what it shows is waited for, never slept for."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import time
from typing import TYPE_CHECKING, Self

from tests.tools.service import CSERVICE

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

DEADLINE = 20.0
"""Seconds to wait for anything; only a failure reaches it."""


class Terminal:
    """``with Terminal("upgrade", "all", "v2.py") as terminal``: the command line on a terminal."""

    def __init__(self, *arguments: str, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> None:
        self._ours, theirs = pty.openpty()
        inherited = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
        environ = {**inherited, "TERM": "xterm", "COLUMNS": "100", **(env or {})}
        self.process = subprocess.Popen(
            [CSERVICE, *arguments], stdin=theirs, stdout=theirs, stderr=theirs, env=environ, cwd=cwd,
            start_new_session=True,
        )  # fmt: skip
        os.close(theirs)
        self._raw = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._ours)

    @property
    def shown(self) -> str:
        """Everything that was written to it so far."""
        return self._raw.decode(errors="replace").replace("\r\n", "\n")

    def type(self, text: str) -> None:
        """Type *text*."""
        os.write(self._ours, text.encode())

    def interrupt(self) -> None:
        """Press Ctrl-C."""
        self.process.send_signal(signal.SIGINT)

    def until(self, text: str) -> None:
        """Return when *text* was shown."""
        end = time.monotonic() + DEADLINE
        while text not in self.shown:
            if not self._read(end - time.monotonic()):
                raise AssertionError(f"waited for {text!r}; shown was:\n{self.shown}")

    def end(self) -> int:
        """Wait for the program's end and return its exit code."""
        end = time.monotonic() + DEADLINE
        while self._read(end - time.monotonic()):
            pass
        return self.process.wait(DEADLINE)

    def _read(self, seconds: float) -> bool:
        """Read once, within *seconds*; False at the end."""
        if not select.select([self._ours], [], [], max(0.0, seconds))[0]:
            raise AssertionError(f"nothing more was shown in {DEADLINE:.0f} s after:\n{self.shown}")
        try:
            part = os.read(self._ours, 65536)
        except OSError:  # the other end is closed
            return False
        self._raw += part
        return bool(part)
