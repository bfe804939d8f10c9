"""Targets: their kind, their path and their interpreter, determined before anything starts.

A script that does not compile or raises is not refused here: its workers fail, as they would after an edit. A missing
target is refused, and so is an app whose module certainly does not exist or does not bind the name.

Functions that examine files are called as the user of the workers, through ``as_user``.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import sys
from typing import TYPE_CHECKING, Literal

from cluster_service.errors import CommandError

from . import interpreter_probe, setting_values

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cluster_service.machine.identity import Identity

APP = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*(\(.*\))?\Z")
"""Matches ``package.module:app`` and ``package.module:create_app("production")``."""
_MAKES = re.compile(r"(create|make|build|get)_|factory")
_PYTHON_LINE = re.compile(rb"#!.*\bpython[\d.]*\b")

_IN_VENV = ("bin", "python")

MODULE = re.compile(r"-m\s*([^\W\d]\w*(\.[^\W\d]\w*)*)\Z")
"""Matches ``-m package.module``, as for the interpreter."""
_INTERPRETER = re.compile(rb"#!\s*(/[^\s]*/python[\d.]*)(?=\s)")
_MAX_LINE = 256
_ZIP = b"PK\x03\x04"

Kind = Literal["script", "module", "app", "command"]


def locate(target: str, *, program: bool, directory: str, cwd: str, environ: Mapping[str, str]) -> tuple[Kind, str]:
    """Return the kind of *target* and its absolute form.

    A script may be a directory or zip file with a ``__main__``. *program*: it stood after ``--`` and may be any
    program. *directory*: that of the caller; a path is searched there, then in *cwd*. Raises CommandError bad_request
    if it does not exist.
    """
    if program:
        return "command", _program(target, directory, cwd, environ)
    module = MODULE.match(target)
    if module:
        return "module", f"-m {module[1]}"
    path = _existing(target, directory, cwd)
    if path is not None:
        if target.endswith(".py") or not os.access(path, os.X_OK) or os.path.isdir(path) or is_python(path):
            return "script", path
        return "command", path
    if APP.match(target):
        _check_call(target)
        return "app", target
    if target.endswith(".py") or "/" in target or ":" in target:
        raise _missing(target, directory, cwd)
    found = shutil.which(target, path=environ.get("PATH", os.defpath))
    if found is None:
        raise _missing(target, directory, cwd)
    return "command", os.path.abspath(found)


def _check_call(target: str) -> None:
    """Raise CommandError bad_request if *target* is a call with arguments that are not constants."""
    _, opened, rest = target.partition("(")
    try:
        call = ast.parse(f"f({rest}", mode="eval").body if opened else None
        if call is not None and not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name)):
            raise ValueError("not one call")
        for value in [*call.args, *(keyword.value for keyword in call.keywords)] if call is not None else ():
            ast.literal_eval(value)
    except (SyntaxError, ValueError):
        hint = "Write package.module:create_app(), or with constants: package.module:create_app('production')."
        raise CommandError("bad_request", f"{target}: its arguments are not constants", hint) from None


def _existing(target: str, directory: str, cwd: str) -> str | None:
    for base in (directory, cwd):
        path = os.path.abspath(os.path.join(base, os.path.expanduser(target)))
        if os.path.isfile(path) or has_main(path):
            if not os.access(path, os.R_OK):
                raise CommandError("bad_request", f"{path} cannot be read by you (user {os.geteuid()})")
            return path
    return None


def has_main(path: str) -> bool:
    """Return True if *path* is a directory that an interpreter can run."""
    return os.path.isfile(os.path.join(path, "__main__.py"))


def is_python(path: str) -> bool:
    """Return True if the file *path* is for a Python interpreter, by its shebang line or as a zip file."""
    with open(path, "rb") as file:
        line = file.readline(_MAX_LINE)
    return line.startswith(_ZIP) or _PYTHON_LINE.match(line) is not None


def first_line_python(path: str) -> str | None:
    """Return the interpreter in the shebang line of the script *path*, as in ``/srv/shop/.venv/bin/flask``.

    Returns None if there is none with an absolute path, if it is ours, or if it is not executable. The shebang line of
    a ``.py`` file is ignored: it applies to ``./worker.py``, not to ``python worker.py``.
    """
    if path.endswith(".py") or os.path.isdir(path):
        return None
    with open(path, "rb") as file:
        found = _INTERPRETER.match(file.readline(_MAX_LINE))
    python = os.fsdecode(found[1]) if found else ""
    return None if not os.access(python, os.X_OK) or _is_in(python, sys.prefix) else python


def _is_in(python: str, home: str) -> bool:
    """Return True if *python* is an interpreter of the environment *home*."""
    return os.path.realpath(os.path.dirname(python)) == os.path.realpath(os.path.join(home, "bin"))


def check_script(script: str, cwd: str) -> bool:
    """Return True if the test *script* needs a Python interpreter.

    Raises CommandError failed if it cannot run in the directory *cwd*.
    """
    if not os.path.isdir(cwd):
        raise CommandError("failed", f"the test {script} cannot be run: there is no directory {cwd}")
    if not os.path.isfile(script):
        what = "is a directory" if os.path.isdir(script) else "does not exist"
        raise CommandError("failed", f"the test {script} {what}")
    executable = os.access(script, os.X_OK)
    if script.endswith(".py") or (not executable and os.access(script, os.R_OK) and is_python(script)):
        return True
    if not executable:
        raise CommandError("failed", f"the test {script} is neither Python nor executable: chmod +x {script}")
    return False


def _missing(target: str, directory: str, cwd: str) -> CommandError:
    looked = directory if directory == cwd else f"{directory} or {cwd}"
    if os.path.isdir(os.path.join(directory, target)):
        what = f"{target} is a directory without a __main__.py"
        if os.path.isfile(os.path.join(directory, target, "__init__.py")):
            name = target.strip("/")
            what += f"; for an app in this package: {name}:app, or {name}:create_app for a function that makes it"
    elif target.startswith("-m"):
        what = f"{target!r} names no module: write -m package.module"
    elif target.endswith(".py") or "/" in target:
        what = f"no such file: {target} (looked for in {looked})"
    elif ":" in target:
        what = f"{target!r} is no app: write package.module:app"
    else:
        what = f"{target!r} is no file in {looked} and no program on the PATH"
        if MODULE.match(f"-m {target}") and "." in target:
            what += f"; to run a module: -m {target}"
    hint = (
        "A target is a file (worker.py), an app (package.module:app), a module (-m package.module) or any program "
        "after -- (-- node server.js)."
    )
    return CommandError("bad_request", what + _near_file(target, directory), hint)


def _near_file(target: str, directory: str) -> str:
    folder, name = os.path.split(os.path.join(directory, target))
    try:
        files = [entry for entry in os.listdir(folder) if entry.endswith(".py")]
    except OSError:
        return ""
    return setting_values.suggestion(name, files)


def _program(target: str, directory: str, cwd: str, environ: Mapping[str, str]) -> str:
    if "/" in target:
        paths = [os.path.abspath(os.path.join(base, os.path.expanduser(target))) for base in (directory, cwd)]
        path = next((path for path in paths if os.path.isfile(path)), None)
        if path is None:
            raise CommandError("bad_request", f"there is no program {target} in {directory}")
        if not os.access(path, os.X_OK):
            hint = "chmod +x makes it a program; a Python file is started without the --."
            raise CommandError("bad_request", f"{path} is not executable", hint)
        return path
    found = shutil.which(target, path=environ.get("PATH", os.defpath))
    if found is None:
        here = os.path.isfile(os.path.join(directory, target))
        hint = (
            f"To run the file {target} here: {target if target.endswith('.py') else '-- ./' + target}" if here else ""
        )
        raise CommandError("bad_request", f"there is no program {target!r} on the PATH", hint)
    return os.path.abspath(found)


def named_python(name: str, directory: str, environ: Mapping[str, str]) -> str:
    """Return the absolute path of the interpreter *name*: a path, a virtual environment, or the name of a program.

    Raises CommandError bad_request if there is none.
    """
    place = os.path.abspath(os.path.join(directory, os.path.expanduser(name)))
    path: str | None = os.path.join(place, *_IN_VENV)
    if not os.path.isfile(path or ""):
        path = place if "/" in name else shutil.which(name, path=environ.get("PATH", os.defpath))
    if path is None or not os.path.isfile(path):
        what = f"{place} is not a virtual environment" if os.path.isdir(place) else f"there is no interpreter {name}"
        raise CommandError("bad_request", what, "Name the path of one: --python .venv, --python .venv/bin/python.")
    if not os.access(path, os.X_OK):
        raise CommandError("bad_request", f"the interpreter {path} is not executable")
    return os.path.abspath(path)


def active_python(environ: Mapping[str, str]) -> str | None:
    """Return the interpreter of the virtual environment active in *environ*, or None.

    None also if it is our own or not executable.
    """
    home = environ.get("VIRTUAL_ENV", "")
    path = os.path.join(home, *_IN_VENV)
    usable = os.path.isabs(home) and os.access(path, os.X_OK) and not _is_in(path, sys.prefix)
    return path if usable else None


def check_python(
    python: str, kind: Kind, target: str, *, identity: Identity, cwd: str, environ: Mapping[str, str]
) -> None:
    """Raise CommandError bad_request unless *python* starts, is 3.9 or newer and can find an app or module.

    A script under our own interpreter is not checked: that interpreter is already running.
    """
    if kind == "command" or (kind == "script" and python == sys.executable):
        return
    found = interpreter_probe.asked(python, kind, target, identity=identity, cwd=cwd, environ=environ)
    judge(kind, target, found, python, cwd)


def judge(kind: Kind, target: str, found: Mapping[str, object], python: str, cwd: str) -> None:
    """Raise CommandError bad_request if *found* (see ``target_probe``) shows that there is no such app or module."""
    if kind not in ("app", "module"):
        return
    module, _, attribute = target.removeprefix("-m ").partition(":")
    missing, file, names = found.get("missing"), found.get("file"), found.get("names")
    if missing == f"{module}.__main__":
        what = f"{target}: {module!r} is a package without __main__, so it cannot be run"
        raise CommandError("bad_request", what, f"Name a module of it (-m {module}.…), or an app ({module}:app).")
    if isinstance(missing, str):
        near = found.get("near")
        what = f"there is no module {missing!r}" + (f" (of {module!r})" if missing != module else "")
        hint = f"Looked for in {cwd} and where {python} finds its packages; --cwd and --python change that."
        near_by = (
            setting_values.suggestion(missing.rpartition(".")[2], [str(name) for name in near])
            if isinstance(near, list)
            else ""
        )
        raise CommandError("bad_request", f"{target}: {what}{near_by}", hint)
    if isinstance(names, list):
        name = attribute.partition("(")[0].partition(".")[0]
        made = next((str(known) for known in names if _MAKES.search(str(known))), None)
        raise CommandError(
            "bad_request",
            f"{target}: {file} defines no {name!r}{setting_values.suggestion(name, [str(known) for known in names])}",
            "It defines "
            + (", ".join(str(known) for known in names[:12]) or "nothing")
            + (", …" if len(names) > 12 else ".")
            + (f" For an app that a function makes: {module}:{made}" if made else ""),
        )
