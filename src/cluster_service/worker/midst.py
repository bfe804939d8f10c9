"""What the program is currently doing, for code that interrupts it: signal handlers and callbacks.

Imports nothing and assumes nothing: the module in question may be partially imported.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Optional

if TYPE_CHECKING:
    from types import FrameType


def running_loop() -> Any:
    """Return the asyncio loop running in this thread, or None."""
    running = getattr(sys.modules.get("asyncio"), "_get_running_loop", None)  # documented for C extensions
    return running() if running is not None else None


def importing(frame: Optional[FrameType]) -> bool:
    """Return True if *frame* is part of an import.

    An exception raised there may be swallowed (by a bare ``except`` around an optional dependency, or callbacks of the
    import system) or changed (by import locks), and modules imported there may be partially imported.
    """
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib."):
            return True
        frame = frame.f_back
    return False
