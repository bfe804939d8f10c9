"""The ``start`` command for a group in a running service. The command line itself starts a service."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cluster_service.config.settings_table import GROUP, SETTINGS, Setting

from . import NO_WAIT
from .registry import Command, Parameter

if TYPE_CHECKING:
    from .service_interface import Service


async def run(service: Service, target: str, **options: Any) -> dict[str, Any]:
    """Start the operation."""
    return await service.start(target, options)


def _parameter(setting: Setting) -> Parameter:
    is_flag = setting.kind == "flag"
    return Parameter(
        setting.name,
        "flag" if is_flag else "setting",
        setting.doc,
        short=next((flag for flag in setting.flags if not flag.startswith("--")), ""),
        many=setting.many,
        metavar=setting.metavar or "|".join(setting.choices),
        default=setting.shown or ("" if setting.default in (None, ()) else str(setting.default)),
        remote="plain" if setting.name in _REMOTE else "",
    )


_REMOTE = (
    "group", "workers", "ready_timeout", "stop_timeout", "ready_after", "auto_restart", "restart_delay",
    "restarts_per_minute", "monitor", "server",
)  # fmt: skip
"""Settings allowed with a remote key: names, numbers and times, which neither run nor open anything."""
_OWN = ("target", "command", "cwd", "timeout", "args")

COMMAND = Command(
    name="start",
    doc="""Add a group of workers to the running service, one worker at a time.

    TARGET is a Python file, an app (package.module:app) or, after --, any program. Relative paths start from the
    directory of the caller.
    """,
    run=run,
    parameters=(
        Parameter(
            "target",
            "target",
            "what to run: worker.py, package.module:app, -m module, or -- any program",
            required=True,
            positional=True,
            remote="target",
        ),
        Parameter(
            "cwd", "caller", "the workers' directory", positional=True, default="the caller's", remote="directory"
        ),
        Parameter(
            "timeout",
            "timeout",
            "how long each worker may take to become ready, and to end",
            positional=True,
            default="60s",
            remote="plain",
        ),
        *(_parameter(setting) for setting in SETTINGS if setting.scope == GROUP and setting.name not in _OWN),
        Parameter("args", "argument", "arguments of the target: what stands after --", many=True),
        Parameter("program", "flag", "the target is any program, as after --"),
        NO_WAIT,
    ),
    operation=True,
    remote=True,
    render="operation",
)
