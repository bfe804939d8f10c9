"""What the runtime itself says to the operator, in the worker's log."""

from __future__ import annotations

import sys


def complain(sentence: str) -> None:
    """Say something to the operator that does not end the worker."""
    if sys.stderr is not None:
        sys.stderr.write(f"cservice: {sentence}\n")
