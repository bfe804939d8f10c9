"""A group that the configuration here names, as the command ``start`` of a service that runs takes it.

What the files say is settled here, where they stand; the service is told absolute paths and values.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .groups import group_of
from .merge import collect
from .resolve import chosen, clean

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cluster_service.core.spec import GroupSpec


def group_here(options: Mapping[str, Any], directory: str, environ: Mapping[str, str]) -> tuple[str, dict[str, Any]]:
    """Return the target and the options of the group that *options* (flags) name, as the files of *directory* and the
    environment have it. Raises CommandError bad_request, which tells every mistake in them.
    """
    collected = collect(options, "flags", directory, environ)
    ((name, given),) = chosen(collected).items()
    group = group_of(given, None, (), program=False, directory=directory, environ=clean(environ), name=name)
    target, found = options_of(group)
    if "python" not in given:
        found.pop("python", None)  # the service's own, then, not that of this command line
    return target, found


def options_of(group: GroupSpec) -> tuple[str, dict[str, Any]]:
    """Return the target and the options from which ``group_settings`` makes *group* again."""
    release = group.release
    policy = group.restart
    options = {
        "group": group.name, "workers": group.count, "cwd": release.cwd, "python": release.python,
        "args": list(release.args), "program": release.kind == "command", "env": dict(release.env),
        "server": release.server, "bind": list(release.binds), "share": group.share,
        "ready_timeout": group.ready_timeout, "stop_timeout": group.stop_timeout, "ready_after": group.ready_after,
        "auto_restart": policy.auto_restart, "restart_delay": policy.delay, "restarts_per_minute": policy.per_minute,
        "user": group.user, "user_group": group.user_group, "monitor": group.monitor,
        "health_check": group.health_check, "hang_timeout": group.hang_timeout,
        "depends_on": [f"{other}:{condition}" for other, condition in group.depends_on], "singleton": group.singleton,
    }  # fmt: skip
    return release.target, {name: value for name, value in options.items() if value not in (None, "", [], {})}
