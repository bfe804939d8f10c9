"""Support for processes that ``multiprocessing`` starts in a new interpreter (spawn, forkserver).

They import the worker's script again, under another name. If it imports ``cluster_service``, that must be importable as
in the worker. So the code with which such a process starts is prefixed with a call of our ``boot.py``.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, List, Sequence

if TYPE_CHECKING:
    from types import ModuleType

    from .runtime import Runtime

_BOOT = os.path.join(os.path.dirname(os.path.realpath(__file__)), "boot.py")
_PROLOGUE = f"import runpy; runpy.run_path({_BOOT!r}, run_name='cluster_service_boot'); "


def install(util: ModuleType, runtime: Runtime) -> None:
    """Wrap the function through which ``multiprocessing`` executes an interpreter."""
    del runtime
    original = util.spawnv_passfds

    def spawnv_passfds(path: Any, args: Sequence[Any], passfds: Any) -> Any:
        return original(path, _with_prologue(list(args)), passfds)

    util.spawnv_passfds = spawnv_passfds  # type: ignore[attr-defined]


def _with_prologue(args: List[Any]) -> List[Any]:
    for position, text in enumerate(args):
        if position and args[position - 1] == "-c" and isinstance(text, str) and "resource_tracker" not in text:
            args[position] = _PROLOGUE + text
    return args
