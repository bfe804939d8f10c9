"""A group from the local configuration, converted to arguments of ``start`` for a running service.

The configuration files are evaluated here; the service receives absolute paths and values.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .groups import group_of
from .merge import collect
from .resolve import chosen, clean
from .table import BY_NAME, GROUP

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

SPELLED: dict[str, Callable[[Any], Any]] = {
    "env": dict,
    "depends": lambda value: [f"{group}:{condition}" for group, condition in value],
    "statuses": lambda value: "{}-{}".format(*value),
}
"""Kind of setting -> the function that converts its value back to what ``start`` accepts."""


def group_here(options: Mapping[str, Any], directory: str, environ: Mapping[str, str]) -> tuple[str, dict[str, Any]]:
    """Return the target and the options of the group that *options* (flags) select in the configuration of *directory*.

    The environment counts too. Raises CommandError bad_request that lists every mistake.
    """
    collected = collect(options, "flags", directory, environ)
    ((name, given),) = chosen(collected).items()
    group = group_of(given, None, (), program=False, directory=directory, environ=clean(environ), name=name)
    release = group.release
    found = {
        setting: SPELLED.get(BY_NAME[setting].kind, _plain)(each.value)
        for setting, each in given.items()
        if BY_NAME[setting].scope == GROUP and setting not in ("target", "command", "timeout")
    }
    found |= {
        "group": group.name, "workers": group.count, "ready_timeout": group.ready_timeout,
        "stop_timeout": group.stop_timeout, "cwd": release.cwd, "args": list(release.args),
        "program": release.kind == "command",
    }  # fmt: skip
    if "python" in given:
        found["python"] = release.python
    return release.target, {setting: value for setting, value in found.items() if value not in (None, "", [], {})}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
