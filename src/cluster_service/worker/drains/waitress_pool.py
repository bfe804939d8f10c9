"""waitress's pool of threads: the worker hangs when requests wait and none of the threads comes to take the first."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, List

if TYPE_CHECKING:
    from types import ModuleType

    from ..runtime import Runtime


def install(module: ModuleType, runtime: Runtime) -> None:
    """Have an eye on the pools that are made from the class of *module*."""
    dispatcher_class = module.ThreadedTaskDispatcher
    original = dispatcher_class.__init__

    @functools.wraps(original)
    def initialize(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        first: List[Any] = []

        def stuck() -> bool:
            waiting = list(self.queue)[:1]
            same = bool(waiting) and bool(first) and waiting[0] is first[0]
            first[:] = waiting
            return same and self.active_count >= len(self.threads)

        runtime.pulse.needs(stuck)

    dispatcher_class.__init__ = initialize
