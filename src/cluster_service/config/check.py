"""Static check of a release: the first stage of an upgrade.

Nothing of the release is imported or executed, and nothing is written, not even a ``.pyc``. Source is compiled by the
interpreter that will run it, which may have another version than ours. Errors that only occur at run time (a missing
dependency, a port in use) are left to the canary.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from cluster_service.control.errors import CommandError

from . import asking, asuser, targets

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cluster_service.core.model.spec import Release
    from cluster_service.machine.identity import Identity


def check_release(
    release: Release,
    *,
    identity: Identity,
    environ: Mapping[str, str],
    timeout: float = asking.SECONDS,
) -> list[str]:
    """Check *release* and return remarks about it; currently always empty. Blocking: run it in a thread.

    *identity*: the user of its workers; the files are read as this user. *environ*: the environment of its workers.
    *timeout*: seconds. Raises CommandError failed, possibly with several lines, if the release cannot run.
    """
    try:
        asuser.call(identity, "files", release.kind, release.target, release.python, release.cwd)
        if release.kind != "command":
            _check_python(release, identity, environ, timeout)
    except CommandError as error:
        hint = f"\n{error.hint}" if error.hint else ""
        raise CommandError("failed", error.message + hint) from None
    return []


def check_files(kind: str, target: str, python: str, cwd: str) -> None:
    """Raise CommandError failed if a file of a release is missing."""
    if not os.path.isdir(cwd):
        raise CommandError("failed", f"the directory {cwd} does not exist")
    if kind == "command":
        _check_program(target)
        return
    if kind == "script" and not os.path.isfile(target) and not targets.has_main(target):
        raise CommandError("failed", f"no such file: {target}")
    if not os.path.isfile(python):
        raise CommandError("failed", f"there is no interpreter {python}")


def _check_python(release: Release, identity: Identity, environ: Mapping[str, str], timeout: float) -> None:
    python, target = release.python, release.target
    found = asking.asked(
        python, release.kind, target, identity=identity, cwd=release.cwd, environ=environ, timeout=timeout
    )
    broken = found.get("broken")
    if isinstance(broken, str) and broken:
        raise CommandError("failed", f"{target} does not compile ({python}):\n{broken}")
    targets.judge(release.kind, target, found, python, release.cwd)


def _check_program(path: str) -> None:
    if not os.path.exists(path):
        raise CommandError("failed", f"there is no program {path}")
    if not os.path.isfile(path):
        raise CommandError("failed", f"{path} is not a program but a directory, or something else")
    if not os.access(path, os.X_OK):
        raise CommandError("failed", f"{path} is not executable", f"chmod +x {path}")
