"""Names of signals."""

from __future__ import annotations

import signal


def signal_name(number: int) -> str:
    """Return SIGKILL for 9; "signal 40" for a signal without a name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
