"""Messages of the runtime to the operator, in the log of the worker."""

from __future__ import annotations

import sys


def complain(sentence: str) -> None:
    """Print a message to the operator that does not end the worker."""
    if sys.stderr is not None:
        sys.stderr.write(f"cservice: {sentence}\n")
