"""A Python file as ``__main__``, as if it were run alone.

The interpreter made ``__main__`` for ``boot.py``; its namespace is emptied and given to the script, so that the module
is in every respect the one that the interpreter looks after: ``multiprocessing`` finds its file, ``pickle`` its
classes, and it is taken down last. An exception goes on to the interpreter, which prints it by the program's own hook
and sets the exit code; only our frames are left out.
"""

from __future__ import annotations

import io
import os
import sys
from importlib.machinery import SourceFileLoader
from typing import Collection, Sequence

from .run import hide_our_frames, refuse
from .say import complain
from .shadowed import uncover

NOT_RUNNABLE = 2
"""The exit code of a file that cannot be run, as the interpreter's own."""


def run_script(path: str, arguments: Sequence[str], at_start: Collection[str]) -> None:
    """Run the file at *path* with ``sys.argv`` of it and *arguments*. *at_start*: see ``shadowed.uncover``."""
    source = _read(path)
    sys.argv = [path, *arguments]
    if hasattr(sys, "orig_argv"):
        sys.orig_argv = [sys.orig_argv[0], path, *arguments]
    if not (sys.flags.isolated or getattr(sys.flags, "safe_path", False)):
        directory = os.path.dirname(os.path.realpath(path))
        uncover(directory, at_start)
        sys.path.insert(0, directory)
    namespace = vars(sys.modules["__main__"])
    annotations = "__annotations__" in namespace
    builtins = namespace["__builtins__"]
    namespace.clear()
    namespace.update(
        __name__="__main__", __doc__=None, __package__=None, __loader__=SourceFileLoader("__main__", path),
        __spec__=None, __builtins__=builtins, __file__=path,
    )  # fmt: skip
    if annotations:
        namespace["__annotations__"] = {}
    if sys.version_info < (3, 15):
        namespace["__cached__"] = None
    try:
        exec(compile(source, path, "exec", dont_inherit=True), namespace)  # noqa: S102 - it is what we are for
    except SystemExit:
        raise
    except BaseException as error:
        hide_our_frames(error)
        if isinstance(error, SyntaxError) and error.filename == path and not path.endswith((".py", ".pyw")):
            complain(f"{path} was run as a Python file. Run any other program after '--': cservice start -- {path}")
        raise


def _read(path: str) -> bytes:
    try:
        with io.open_code(path) as file:
            source = file.read()
    except IsADirectoryError:
        refuse(f"{path} is a directory; name the Python file to run", NOT_RUNNABLE)
    except OSError as error:
        refuse(f"cannot read {path}: {error.strerror}", NOT_RUNNABLE)
    if b"\0" in source[:4096]:
        refuse(f"{path} is not a Python file. Run any other program after '--': cservice start -- {path}", NOT_RUNNABLE)
    return source
