"""Names of signals."""

from __future__ import annotations

import signal


def signal_number(text: str) -> int:
    """Return the number of ``QUIT``, ``SIGQUIT``, ``quit`` or ``3``. Raises ValueError if there is no such signal."""
    if text.isdecimal():
        number = int(text)
    else:
        name = text.upper()
        known = signal.Signals.__members__.get(name if name.startswith("SIG") else f"SIG{name}")
        number = 0 if known is None else int(known)
    if number not in signal.valid_signals():
        raise ValueError(f"there is no signal {text!r}")
    return number


def signal_name(number: int) -> str:
    """Return SIGKILL for 9; "signal 40" for a signal without a name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
