"""What a command from another machine may name as code: only what lies in the directories that its owner chose.

A key that opens for other machines would else be the right to run anything. Everything is compared after realpath, and
what was compared is what is passed on, so that a link moved later changes nothing. What could bring other code in by a
side door is refused altogether: variables of the environment, other people's interpreters, programs found on PATH.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from .errors import CommandError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

CODE = frozenset(("start", "upgrade", "test"))
"""The commands that name code to run."""
_NEVER = (
    "env", "env_files", "user", "user_group", "umask", "limits", "nice", "cpu_affinity", "oom_score_adj", "share",
    "ready_file",
)  # fmt: skip
"""Arguments that are not for other machines to give."""


def confined(command: str, given: Mapping[str, Any], roots: Sequence[str]) -> dict[str, Any]:
    """Return the arguments *given*, with real paths. Raises CommandError forbidden for what lies outside *roots*."""
    if command not in CODE:
        return dict(given)
    inside = [os.path.realpath(root) for root in roots]
    if not inside:
        raise CommandError(
            "forbidden",
            f"{command} names code to run, and no directory is set for code from other machines",
            "Name one where the service is started: --upgrade-root DIR.",
        )
    for name in _NEVER:
        if name in given:
            raise CommandError("forbidden", f"{command}: {name} may not be given from another machine")
    found = dict(given)
    base = _inside(inside, command, "cwd", str(given["cwd"]), "/") if "cwd" in given else ""
    if base:
        found["cwd"] = base
    for name in ("test", "script"):
        if name in given:
            found[name] = _inside(inside, command, name, str(given[name]), base)
    if "python" in given:
        # a virtualenv's python is a link to one outside: where the link lies is what counts
        folder, name = os.path.split(str(given["python"]))
        if not folder:
            raise CommandError("forbidden", f"{command}: python: from another machine it is given by its whole path")
        found["python"] = os.path.join(_inside(inside, command, "python", folder, base), name)
    if "target" in given:
        found["target"] = _target(inside, command, given, base)
    return found


def _target(roots: Sequence[str], command: str, given: Mapping[str, Any], base: str) -> str:
    target = str(given["target"])
    module, colon, _ = target.partition(":")
    if not colon or os.sep in target or given.get("program"):
        if given.get("program") and os.sep not in target:
            raise CommandError(
                "forbidden",
                f"{command}: from another machine a program is given by its whole path, not {target[:80]!r}",
            )
        return _inside(roots, command, "target", target, base)
    if not base:
        raise CommandError(
            "forbidden", f"{command}: from another machine an app needs its directory", "Give it as cwd."
        )
    first = module.partition(".")[0]
    own = any(os.path.exists(os.path.join(base, first + ending)) for ending in (".py", ""))
    if not own or first in sys.builtin_module_names:
        raise CommandError("forbidden", f"{command}: from another machine an app must lie in its own directory")
    for ending in (".py", ""):
        if os.path.exists(os.path.join(base, first + ending)):
            _inside(roots, command, "target", first + ending, base)
    return target


def _inside(roots: Sequence[str], command: str, name: str, path: str, base: str) -> str:
    """Return the real path of *path*, from *base* on. Raises CommandError forbidden unless one of *roots* holds it."""
    whole = os.path.join(base, path) if path else base
    if not os.path.isabs(whole) or "\0" in whole:
        raise CommandError("forbidden", f"{command}: {name}: from another machine a path must be whole: /srv/app/…")
    real = os.path.realpath(whole)
    if not any(real == root or real.startswith(root.rstrip(os.sep) + os.sep) for root in roots):
        raise CommandError(
            "forbidden", f"{command}: {name}: it does not lie in a directory for code from other machines"
        )
    return real
