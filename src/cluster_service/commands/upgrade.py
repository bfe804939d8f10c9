"""The ``upgrade`` command."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cluster_service.errors import CommandError

from . import MONITOR, NO_WAIT, SELECTOR, TIMEOUT
from .registry import Command, Parameter

if TYPE_CHECKING:
    from .service_interface import Service


CHANGES = ("cwd", "python", "env", "server", "args")
"""Parameters that may change without a new target."""


async def run(service: Service, selector: str, target: str | None = None, **options: Any) -> dict[str, Any]:
    """Start the operation. Raises CommandError bad_request if nothing would change."""
    if target is None and not any(options.get(name) for name in CHANGES):
        flags = ", ".join(f"--{name}" for name in CHANGES)
        raise CommandError(
            "bad_request",
            f"upgrade: nothing would change: name TARGET, or what is to change of the present one ({flags})",
            f"To start the same code anew: cservice restart {selector}",
        )
    return await service.upgrade(selector, target, options)


COMMAND = Command(
    name="upgrade",
    doc="""Move workers to other code, a canary first, and back when it is bad.

    TARGET is a Python file, an app (package.module:app) or, after --, any program; it is looked for, and run, in CWD.
    Its arguments stand after -- (upgrade all manage.py -- runserver). Without TARGET the present one stays, and --cwd,
    --python, --env, --server or --args change.
    The new code is checked; one worker of it joins the ports and is watched for MONITOR; then the others are replaced,
    each when its successor serves, and all are watched once more. If the new code is bad at any moment of that, every
    worker is put back on the old code, and the command fails with the reason. What is not named stays as it is.
    """,
    run=run,
    parameters=(
        SELECTOR,
        Parameter(
            "target", "target", "what to run: worker.py, package.module:app, -m module, or -- any program",
            positional=True, default="the present one", remote="target",
        ),
        Parameter(
            "cwd", "caller", "the workers' directory", positional=True, default="the caller's, with TARGET",
            remote="directory",
        ),
        TIMEOUT,
        Parameter(
            "python", "executable", "interpreter of the workers, or a virtual environment", metavar="PATH",
            default="the release's own .venv, else the present one",
        ),
        Parameter("env", "text", "set a variable in the workers' environment (repeatable)", many=True, metavar="K=V"),
        Parameter("server", "choice", "what serves an app", choices=("uvicorn", "granian"), remote="plain"),
        Parameter("args", "argument", "arguments of the target (also after --)", many=True, metavar="ARG"),
        MONITOR,
        Parameter(
            "test", "file", "a script to run against one worker that no client reaches, first", metavar="SCRIPT",
            remote="file",
        ),
        Parameter(
            "health_check", "url path", "a path that this worker must answer well, /health", metavar="PATH",
            remote="plain",
        ),
        Parameter("program", "flag", "the target may be any program, as after --"),
        Parameter("allow_port_change", "flag", "the new code may leave ports of the old one", remote="plain"),
        NO_WAIT,
    ),
    operation=True,
    remote=True,
    render="operation",
)  # fmt: skip
