"""Whether a release can be run at all, found out without running it: the first stage of an upgrade.

Nothing of the release is imported or executed, and nothing is written, no ``.pyc`` either. Source is compiled by the
interpreter that is to run it, never by ours: it may be of another version. What only shows when the code runs (a
dependency that is missing, a port that is taken) is for the canary to find.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from cluster_service.control.errors import CommandError

from . import asking, targets

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cluster_service.core.spec import Release


def check_release(
    release: Release,
    *,
    environ: Mapping[str, str],
    timeout: float = asking.SECONDS,
    user: str | None = None,
    user_group: str | None = None,
) -> list[str]:
    """Return remarks about *release*. Blocking: for a thread.

    *environ*: its workers'. *timeout*: seconds. *user*, *user_group*: whose processes its workers are; None: ours.
    Raises CommandError failed, of several lines perhaps, when it surely cannot be run.
    """
    try:
        if not os.path.isdir(release.cwd):
            raise CommandError("failed", f"the directory {release.cwd} does not exist")
        if release.kind == "command":
            _check_program(release.target)
            return []
        return _check_python(release, environ, timeout, identity(user, user_group))
    except CommandError as error:
        hint = f"\n{error.hint}" if error.hint else ""
        raise CommandError("failed", error.message + hint) from None


def _check_python(release: Release, environ: Mapping[str, str], timeout: float, who: Mapping[str, Any]) -> list[str]:
    python, target = release.python, release.target
    if release.kind == "script" and not os.path.isfile(target):
        raise CommandError("failed", f"no such file: {target}")
    if not os.path.isfile(python):
        raise CommandError("failed", f"there is no interpreter {python}")
    found = asking.asked(python, release.kind, target, cwd=release.cwd, environ=environ, timeout=timeout, identity=who)
    broken = found.get("broken")
    if isinstance(broken, str) and broken:
        raise CommandError("failed", f"{target} does not compile ({python}):\n{broken}")
    if release.kind == "app":
        targets.judge_app(target, found, python, release.cwd)
    return []


def _check_program(path: str) -> None:
    if not os.path.exists(path):
        raise CommandError("failed", f"there is no program {path}")
    if not os.path.isfile(path):
        raise CommandError("failed", f"{path} is not a program but a directory, or something else")
    if not os.access(path, os.X_OK):
        raise CommandError("failed", f"{path} is not executable", f"chmod +x {path}")


def identity(user: str | None, user_group: str | None) -> dict[str, Any]:
    """Return the arguments of ``subprocess.Popen`` by which a process runs as the guardian's workers of *user* do.

    Raises CommandError failed when there is no such user.
    """
    import grp  # noqa: PLC0415 - rarely needed
    import pwd  # noqa: PLC0415

    if (user is None and user_group is None) or os.geteuid() != 0:
        return {}
    uid, gid, name = os.getuid(), os.getgid(), None
    try:
        if user is not None:
            entry = pwd.getpwuid(int(user)) if user.isdecimal() else pwd.getpwnam(user)
            uid, gid, name = entry.pw_uid, entry.pw_gid, entry.pw_name
    except KeyError:
        if user is None or not user.isdecimal():
            raise CommandError("failed", f"there is no user {user} on this machine") from None
        uid = gid = int(user)
    try:
        if user_group is not None:
            gid = int(user_group) if user_group.isdecimal() else grp.getgrnam(user_group).gr_gid
    except KeyError:
        raise CommandError("failed", f"there is no group {user_group} on this machine") from None
    return {"user": uid, "group": gid, "extra_groups": os.getgrouplist(name, gid) if name else []}
