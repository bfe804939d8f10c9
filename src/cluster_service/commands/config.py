"""The ``config`` command. The command line runs it in the caller's directory, unless ``--running`` is given."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from cluster_service.errors import CommandError

from .registry import Command, Parameter

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .service_interface import Service


async def run(
    service: Service,
    action: str,
    file: str | None = None,
    running: bool = True,  # noqa: ARG001 - here the service always runs
) -> dict[str, Any]:
    """Return the configuration of the running service. Raises CommandError bad_request."""
    if file is not None:
        raise CommandError("bad_request", "config: a running service has its own file", "Leave FILE out.")
    return await service.configuration(action)


def here(
    session: Mapping[str, Any],
    action: str,
    file: str | None = None,
    running: bool = False,
) -> dict[str, Any] | None:
    """Check or show the configuration of the current directory. Raises CommandError that lists every mistake."""
    if running:
        return None
    from cluster_service.config import resolve  # only needed to read a configuration
    from cluster_service.config.service_config import Origin

    options = {name: session[name] for name in ("name", "run_dir", "access_key_file") if _was_given(session, name)}
    origin = Origin(os.getcwd(), {**options, "config": file}, "flags")
    return (resolve.look if action == "show" else resolve.check)(origin, os.environ)


def _was_given(session: Mapping[str, Any], name: str) -> bool:
    """Return True if the option was given before the command; the configuration reads the environment itself."""
    value = session.get(name)
    return value not in (None, os.environ.get(f"CSERVICE_{name.upper()}")) and (name, value) != ("name", "default")


COMMAND = Command(
    name="config",
    doc="""Check the configuration, or show each setting and where it came from.

    check: tell every mistake in FILE (else in the file that `cservice start` would read here) and in the environment,
    with the line and what to do. show: the value of each setting, and the option, variable, file and line that gave it;
    secrets are not shown. With --running: the same of the running service.
    """,
    run=run,
    parameters=(
        Parameter(
            "action", "choice", "what to do", required=True, positional=True, choices=("check", "show"), remote="plain"
        ),
        Parameter("file", "file", "the file", positional=True, default="cluster-service.toml, pyproject.toml"),
        Parameter("running", "flag", "what the running service was started with", remote="plain"),
    ),
    changes=False,
    remote=True,
    render="config",
    here=here,
)
