"""The names of signals, as people know them."""

from __future__ import annotations

import signal


def signal_name(number: int) -> str:
    """Return SIGKILL for 9, and "signal 40" for one that has no name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
