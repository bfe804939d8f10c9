"""Runs a Python file, module, directory or zip file as ``__main__``, as if it were run alone.

The interpreter created ``__main__`` for ``entry_point.py``. Its namespace is cleared and used for the script, so that
it is the module that the interpreter manages: ``multiprocessing`` finds its file, ``pickle`` its classes, and it is
torn down last. An exception propagates to the interpreter, which prints it with the program's own hook and sets the
exit code; only our frames are removed.

Modules beside the script may have names from the standard library: ``python app.py`` finds ``queue.py`` beside
``app.py`` before that of the library. In a worker, the runtime has imported some of the library before the script
begins, and ``import queue`` would return that. So ``uncover`` removes the modules that the script's directory shadows
from ``sys.modules``, and the script imports its own. The runtime keeps using those of the library: its modules import
at their top, and are all imported before the removal.
"""

from __future__ import annotations

import importlib
import io
import os
import sys
from importlib.machinery import BuiltinImporter, FrozenImporter, PathFinder, SourceFileLoader
from typing import Any, Collection, Dict, List, Sequence

from .reporting import exit_with_message, hide_our_frames, warn
from .unpatched import keep_library

NOT_RUNNABLE = 2
"""Exit code if a file cannot be run; the same as the interpreter's."""


def run_script(path: str, arguments: Sequence[str], at_start: Collection[str]) -> None:
    """Run the file at *path*; ``sys.argv`` is *path* and *arguments*. *at_start*: see ``uncover``.

    A directory or a zip file is run if it contains a module ``__main__``.
    """
    if _is_importable(path):
        _call([path, *arguments], [path, *arguments])
        uncover(path, at_start)
        sys.path.insert(0, path)  # also in isolated mode
        _empty_main()
        _run_as_main("__main__", alter_argv=False)
        return
    source = _read(path)
    _call([path, *arguments], [path, *arguments])
    _look_in(os.path.dirname(os.path.realpath(path)), at_start)
    namespace = _empty_main()
    namespace.update(__loader__=SourceFileLoader("__main__", path), __file__=path)
    if sys.version_info < (3, 15):
        namespace["__cached__"] = None
    try:
        exec(compile(source, path, "exec", dont_inherit=True), namespace)  # noqa: S102 - the purpose of this function
    except SystemExit:
        raise
    except BaseException as error:
        hide_our_frames(error)
        if isinstance(error, SyntaxError) and error.filename == path and not path.endswith((".py", ".pyw")):
            warn(f"{path} was run as a Python file. Run any other program after '--': cservice start -- {path}")
        raise


def run_module(name: str, arguments: Sequence[str], at_start: Collection[str]) -> None:
    """Run the module *name* like ``python -m``."""
    _call(["-m", *arguments], ["-m", name, *arguments])
    _look_in(os.getcwd(), at_start)
    _empty_main()
    _run_as_main(name, alter_argv=True)


def _call(argv: List[str], orig_argv: List[str]) -> None:
    sys.argv = argv
    if hasattr(sys, "orig_argv"):
        sys.orig_argv = [sys.orig_argv[0], *orig_argv]


def _look_in(directory: str, at_start: Collection[str]) -> None:
    """Insert *directory* first in ``sys.path``, unless an option of the interpreter forbids it."""
    if not (sys.flags.isolated or getattr(sys.flags, "safe_path", False)):
        uncover(directory, at_start)
        sys.path.insert(0, directory)


def _empty_main() -> Dict[str, Any]:
    """Return the namespace of ``__main__``, reset to its state before a program."""
    namespace = vars(sys.modules["__main__"])
    annotations = "__annotations__" in namespace
    builtins = namespace["__builtins__"]
    namespace.clear()
    namespace.update(
        __name__="__main__", __doc__=None, __package__=None, __loader__=BuiltinImporter, __spec__=None,
        __builtins__=builtins,
    )  # fmt: skip
    if annotations:
        namespace["__annotations__"] = {}
    return namespace


def _run_as_main(name: str, *, alter_argv: bool) -> None:
    """Call the function that the interpreter itself uses for ``-m``, directories and zip files."""
    import runpy  # for these only

    try:
        runpy._run_module_as_main(name, alter_argv)  # type: ignore[attr-defined]  # noqa: SLF001 - what python -m calls
    except SystemExit:
        raise
    except BaseException as error:
        hide_our_frames(error)
        raise


def _is_importable(path: str) -> bool:
    """Return True if *path* is a directory or a zip file with a module ``__main__``."""
    if os.path.isdir(path):
        return os.path.isfile(os.path.join(path, "__main__.py"))
    try:
        with io.open_code(path) as file:
            if b"\0" not in file.read(4096):  # the head of a zip file contains some, even after a shebang line
                return False
        from zipimport import zipimporter  # for these only

        return bool(zipimporter(path).archive)
    except (OSError, ImportError):
        return False


def _read(path: str) -> bytes:
    try:
        with io.open_code(path) as file:
            source = file.read()
    except IsADirectoryError:
        exit_with_message(f"{path} is a directory without a __main__.py; name the Python file to run", NOT_RUNNABLE)
    except OSError as error:
        exit_with_message(f"cannot read {path}: {error.strerror}", NOT_RUNNABLE)
    if b"\0" in source[:4096]:
        exit_with_message(
            f"{path} is not a Python file. Run any other program after '--': cservice start -- {path}", NOT_RUNNABLE
        )
    return source


_PACKAGE = "cluster_service"
_LATE_IMPORTS = ("traceback", "ctypes", "socket")
"""Modules that the runtime imports inside functions only, because they are rarely needed."""




def uncover(directory: str, at_start: Collection[str]) -> None:
    """Remove library modules that a script in *directory* would not see if it ran alone.

    *at_start*: names of modules imported by the interpreter itself; these stay, as they would alone.
    """
    if not _replaced(directory, at_start):
        return
    _import_runtime()  # later imports would find the script's modules
    keep_library(_LATE_IMPORTS)
    gone = _replaced(directory, at_start)
    for name in [name for name in sys.modules if name.partition(".")[0] in gone]:
        del sys.modules[name]


def _replaced(directory: str, at_start: Collection[str]) -> List[str]:
    """Return the names of modules imported since the start that *directory* contains too."""
    importlib.invalidate_caches()
    names = [name for name in sys.modules if "." not in name and name not in at_start and name != _PACKAGE]
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
            if kind == ".py" and name not in ("__init__", "entry_point"):
                try:
                    importlib.import_module(f"{package}.{name}")
                except ImportError:  # a server that is not installed for this interpreter
                    continue
