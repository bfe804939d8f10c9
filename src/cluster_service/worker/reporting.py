"""Messages to the operator, in the log of the worker, and tracebacks without the frames of this package."""

from __future__ import annotations

import sys
from typing import NoReturn

from .unpatched import os

CANNOT_SERVE = 3
"""Exit code if an app cannot be served: not found, server not installed, address in use, or startup failed."""


def warn(sentence: str) -> None:
    """Print a message to the operator that does not end the worker."""
    if sys.stderr is not None:
        sys.stderr.write(f"cservice: {sentence}\n")


def exit_with_message(sentence: str, code: int) -> NoReturn:
    """Exit with an error message for the operator, before the program starts."""
    warn(sentence)
    raise SystemExit(code)


def hide_our_frames(error: BaseException) -> None:
    """Report *error*, if it ends the program, without the frames of this package above those of the program."""
    home = os.path.dirname(__file__)
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith(home):
        trace = trace.tb_next
    hook = sys.excepthook

    def report(kind: type, value: BaseException, seen: object) -> None:
        if value is error:
            value.__traceback__ = seen = trace
        hook(kind, value, seen)  # type: ignore[arg-type]

    sys.excepthook = report
