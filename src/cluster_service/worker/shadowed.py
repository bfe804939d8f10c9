"""Modules beside a script with names from the standard library.

``python app.py`` finds ``queue.py`` beside ``app.py`` before that of the library. In a worker, the runtime has imported
some of the library before the script begins, and ``import queue`` would return that. So the modules that the script's
directory shadows are removed from ``sys.modules``, and the script imports its own. The runtime keeps using those of the
library: its modules import at their top, and are all imported before the removal.
"""

from __future__ import annotations

import importlib
import os
import sys
from importlib.machinery import BuiltinImporter, FrozenImporter, PathFinder
from typing import Any, Collection, Dict, List

_OWN = "cluster_service"
_LATER = ("traceback", "ctypes", "socket")
"""Modules that the runtime imports inside functions only, because they are rarely needed."""
_kept: Dict[str, Any] = {}


def library(name: str) -> Any:
    """Return the module *name* of the standard library, even if the script shadows it."""
    return _kept.get(name) or importlib.import_module(name)


def uncover(directory: str, at_start: Collection[str]) -> None:
    """Remove library modules that a script in *directory* would not see if it ran alone.

    *at_start*: names of modules imported by the interpreter itself; these stay, as they would alone.
    """
    if not _replaced(directory, at_start):
        return
    _import_runtime()  # later imports would find the script's modules
    _kept.update({name: importlib.import_module(name) for name in _LATER})
    gone = _replaced(directory, at_start)
    for name in [name for name in sys.modules if name.partition(".")[0] in gone]:
        del sys.modules[name]


def _replaced(directory: str, at_start: Collection[str]) -> List[str]:
    """Return the names of modules imported since the start that *directory* contains too."""
    importlib.invalidate_caches()
    names = [name for name in sys.modules if "." not in name and name not in at_start and name != _OWN]
    return [name for name in names if _is_found(name, directory)]


def _is_found(name: str, directory: str) -> bool:
    if BuiltinImporter.find_spec(name) is not None or FrozenImporter.find_spec(name) is not None:
        return False  # these precede any directory
    spec = PathFinder.find_spec(name, [directory])
    return spec is not None and spec.loader is not None and spec.origin is not None  # a namespace package comes last


def _import_runtime() -> None:
    """Import every module of the runtime, except those that need the package of a server."""
    home = os.path.dirname(__file__)
    for package, place in ((__package__, home), (f"{__package__}.drains", os.path.join(home, "drains"))):
        for entry in sorted(os.listdir(place)):
            name, kind = os.path.splitext(entry)
            if kind == ".py" and name not in ("__init__", "boot"):
                try:
                    importlib.import_module(f"{package}.{name}")
                except ImportError:  # a server that is not installed for this interpreter
                    continue
