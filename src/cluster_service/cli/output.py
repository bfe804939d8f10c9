"""Output of the command line: text on standard output, errors on standard error."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TextIO

INTERRUPTED = 130
"""The exit code after Ctrl-C."""


ABOVE: list[Callable[[str], None]] = []
"""Functions that print lines above the progress of the running command; the last one is used."""


class ReaderLeft(Exception):
    """The reader of our output has gone. Not an OSError: click exits with a code of its own for those."""


def out(text: str) -> None:
    """Print to standard output and flush, as a reader may be waiting. Raises ReaderLeft."""
    _write(sys.stdout, text)


def say(text: str) -> None:
    """Print to standard error. Raises ReaderLeft."""
    _write(sys.stderr, text)


def _write(stream: TextIO, text: str) -> None:
    try:
        stream.write(text + "\n")
        stream.flush()
    except BrokenPipeError:
        raise ReaderLeft from None
