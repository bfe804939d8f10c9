"""Modules beside a script that have the names of the standard library's.

``python app.py`` finds ``queue.py`` beside ``app.py`` before the library's. In a worker, the runtime has imported some
of the library before the script begins, and ``import queue`` would return that. So the modules that the script's
directory replaces are forgotten, and the script imports its own. The runtime keeps the library's: its modules import
what they need at their top, and are all imported before anything is forgotten.
"""

from __future__ import annotations

import importlib
import os
import sys
from importlib.machinery import BuiltinImporter, FrozenImporter, PathFinder
from typing import Any, Collection, Dict, List

_OWN = "cluster_service"
_LATER = ("traceback", "ctypes", "socket")
"""What the runtime imports in the middle of a function only, because it is rarely needed."""
_kept: Dict[str, Any] = {}


def library(name: str) -> Any:
    """Return the standard library's module *name*, whatever the script has beside it."""
    return _kept.get(name) or importlib.import_module(name)


def uncover(directory: str, at_start: Collection[str]) -> None:
    """Forget the library's modules that a script in *directory* would not see when it runs alone.

    *at_start*: names of the modules that the interpreter had imported by itself; these stay, as they do alone.
    """
    if not _replaced(directory, at_start):
        return
    _import_runtime()  # what it imports later would be the script's
    _kept.update({name: importlib.import_module(name) for name in _LATER})
    gone = _replaced(directory, at_start)
    for name in [name for name in sys.modules if name.partition(".")[0] in gone]:
        del sys.modules[name]


def _replaced(directory: str, at_start: Collection[str]) -> List[str]:
    """Return the names of modules that were imported since, and that *directory* has as well."""
    importlib.invalidate_caches()
    names = [name for name in sys.modules if "." not in name and name not in at_start and name != _OWN]
    return [name for name in names if _is_found(name, directory)]


def _is_found(name: str, directory: str) -> bool:
    if BuiltinImporter.find_spec(name) is not None or FrozenImporter.find_spec(name) is not None:
        return False  # these come before any directory
    spec = PathFinder.find_spec(name, [directory])
    return spec is not None and spec.loader is not None and spec.origin is not None  # a directory alone comes last


def _import_runtime() -> None:
    """Import every module of the runtime, but for those that need a server's package."""
    home = os.path.dirname(__file__)
    for package, place in ((__package__, home), (f"{__package__}.drains", os.path.join(home, "drains"))):
        for entry in sorted(os.listdir(place)):
            name, kind = os.path.splitext(entry)
            if kind == ".py" and name not in ("__init__", "boot"):
                try:
                    importlib.import_module(f"{package}.{name}")
                except ImportError:  # of a server that this interpreter does not have
                    continue
