"""Restrictions for remote keys: only what a command's definition allows, and code only from configured directories.

Without them a key that is valid from other machines would permit running any code. Nothing is allowed by default: a
command is refused unless its definition has ``remote=True`` or it is custom, and an argument unless its parameter names
one of ``CHECKS``. Paths are compared after realpath, and the real path is passed on, so that a symbolic link changed
later has no effect. No argument runs, opens or creates anything outside the directories.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from cluster_service.errors import CommandError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from cluster_service.commands.registry import Command, Parameter

MODULE_ENDINGS = ("", ".py", "/__init__.py")
"""Suffixes of the paths at which the code of a module may be, after its name."""


class _Refused(Exception):
    """The message and hint of a refusal, without the names of the command and the argument."""

    def __init__(self, sentence: str, hint: str = "") -> None:
        super().__init__(sentence)
        self.hint = hint


def confined(command: Command, given: Mapping[str, Any], roots: Sequence[str]) -> dict[str, Any]:
    """Return the arguments *given* to *command* by a remote key, with real paths.

    *roots*: absolute directories with code. Raises CommandError forbidden.
    """
    if not may_be_remote(command):
        raise CommandError("forbidden", f"{command.name} may not be given by a remote key", _by_the_owner(command))
    parameters = {parameter.name: parameter for parameter in command.parameters}
    if any(_names_code(parameter) for parameter in command.parameters) and not roots:
        raise CommandError(
            "forbidden",
            f"{command.name} names code to run, and no directory is set for code from remote keys",
            "Name one where the service is started: --upgrade-root DIR.",
        )
    inside = [os.path.realpath(root) for root in roots]
    found = dict(given)
    base = ""
    for name in sorted(given, key=lambda name: parameters[name].remote != "directory"):  # the base of others
        try:
            found[name] = CHECKS[parameters[name].remote](inside, base, given[name])
        except _Refused as refusal:
            message = f"{command.name}: {name}: {refusal}"
            raise CommandError("forbidden", message, refusal.hint or _by_the_owner(command)) from None
        if parameters[name].remote == "directory":
            base = found[name]
    optional = [each.name for each in command.parameters if each.remote == "target" and not each.required]
    unnamed = [name for name in optional if name not in given]
    if unnamed:  # the current target would run in another directory
        message = f"{command.name}: a remote key must name the {unnamed[0]}"
        raise CommandError("forbidden", message, _by_the_owner(command))
    return found


def may_be_remote(command: Command) -> bool:
    """Return True if the definition of *command* allows remote keys."""
    return command.remote or command.custom


def _by_the_owner(command: Command) -> str:
    return f"Give it over the service's Unix socket: cservice {command.name} ... without --url."


def _names_code(parameter: Parameter) -> bool:
    return parameter.remote in ("directory", "file", "target")


def _nothing(_roots: Sequence[str], _base: str, _value: Any) -> Any:
    raise _Refused("a remote key may not give this argument")


def _plain(_roots: Sequence[str], _base: str, value: Any) -> Any:
    return value


def _directory(roots: Sequence[str], _base: str, value: Any) -> str:
    return _inside(roots, "/", value, os.path.isdir, "directory")


def _file(roots: Sequence[str], base: str, value: Any) -> str:
    return _inside(roots, base, value, os.path.isfile, "file")


def _target(roots: Sequence[str], base: str, value: Any) -> str:
    """Return a Python file, or an app whose module is in the directory given as cwd. Raises _Refused."""
    module, colon, _ = str(value).partition(":")
    if not colon or os.sep in str(value):
        path = _file(roots, base, value)
        if not path.endswith(".py"):
            raise _Refused("a remote key may give a Python file (.py) or an app (package.module:app)")
        return path
    if "(" in str(value):
        raise _Refused("a remote key may not call a function with arguments", "Name the function alone.")
    if not base:
        raise _Refused("an app needs its directory", "Give it as cwd.")
    first, *rest = module.split(".")
    if first in sys.stdlib_module_names or not _exists(os.path.join(base, first)):
        raise _Refused("an app must lie in its own directory")
    path = base
    for name in (first, *rest):
        path = os.path.join(path, name)
        for ending in MODULE_ENDINGS:
            if os.path.lexists(path + ending):
                _inside(roots, "", path + ending, os.path.lexists, "module")
    return str(value)


def _exists(path: str) -> bool:
    return any(os.path.exists(path + ending) for ending in MODULE_ENDINGS)


def _inside(roots: Sequence[str], base: str, value: Any, is_one: Callable[[str], bool], what: str) -> str:
    """Return the real path of *value*, relative to *base*. Raises _Refused unless it exists inside one of *roots*."""
    path = os.path.join(base, value) if isinstance(value, str) else ""
    if not os.path.isabs(path) or "\0" in path:
        raise _Refused("a remote key must give an absolute path: /srv/app/...")
    try:
        real = os.path.realpath(path)
    except OSError:  # the path is too long
        real = ""
    if not any(real == root or real.startswith(root.rstrip(os.sep) + os.sep) for root in roots):
        raise _Refused("it does not lie in a directory for code from remote keys (--upgrade-root)")
    if not is_one(real):
        raise _Refused(f"there is no such {what}")
    return real


CHECKS: dict[str, Callable[[Sequence[str], str, Any], Any]] = {
    "": _nothing,
    "plain": _plain,
    "directory": _directory,
    "file": _file,
    "target": _target,
}
"""Value of a parameter's ``remote`` -> the function that returns the argument to pass on.

It takes the roots, the given cwd and the argument. ``plain``: the argument names nothing that is run or opened.
"""
