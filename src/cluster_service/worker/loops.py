"""asyncio and uvloop: the loop in the main thread sends the heartbeat of the worker.

SIGTERM handlers that the program adds to a loop run once the worker has settled (``gate``).
"""

from __future__ import annotations

import functools
from _thread import get_ident
from typing import TYPE_CHECKING, Any

from . import ports
from .pulse import Beating

if TYPE_CHECKING:
    from types import ModuleType

    from .runtime import Runtime


def install(module: ModuleType, runtime: Runtime) -> None:
    """Make the loops of *module* (one of asyncio's, or ``uvloop``) send the heartbeat while they run."""
    if module.__name__ == "asyncio.unix_events":
        runtime.gate.hold(module._UnixSelectorEventLoop)  # noqa: SLF001 - base class of all asyncio loops
        return
    if module.__name__ == "uvloop":
        runtime.gate.hold(module.Loop)
        ports.install(module, runtime)
        loop_class = module.Loop
    else:
        loop_class = module.BaseEventLoop
    main = get_ident()
    original = loop_class.run_forever

    @functools.wraps(original)
    def run_forever(self: Any) -> Any:
        if get_ident() != main or self.is_closed() or self.is_running():
            return original(self)
        beating = Beating(runtime.pulse, self)
        try:
            return original(self)
        finally:
            beating.end()

    loop_class.run_forever = run_forever
