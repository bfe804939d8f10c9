"""What the program is in the middle of, for code that comes in between: a signal's handler, a callback.

Nothing is imported here, and nothing is taken for granted: the module that is asked about may be half imported.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Optional

if TYPE_CHECKING:
    from types import FrameType


def running_loop() -> Any:
    """Return the asyncio loop that runs in this thread, or None."""
    running = getattr(sys.modules.get("asyncio"), "_get_running_loop", None)  # documented for C extensions
    return running() if running is not None else None


def importing(frame: Optional[FrameType]) -> bool:
    """Whether *frame* is a part of an import.

    What is raised there may be swallowed (by a bare ``except`` around an optional dependency, by the import system's
    callbacks) or turned into another error (by its locks), and what is imported there may be half imported already.
    """
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib."):
            return True
        frame = frame.f_back
    return False
