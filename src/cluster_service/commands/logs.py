"""The ``logs`` command."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cluster_service.errors import CommandError

from .registry import Command, Parameter

if TYPE_CHECKING:
    from .service_interface import Service


async def run(service: Service, lines: int = 100, *, follow: bool = False) -> dict[str, Any]:
    """Return the last lines of the log file. Raises CommandError: ``failed`` if there is none, ``bad_request``."""
    if follow:
        raise CommandError("bad_request", "logs: only the command line can follow", "Leave out follow.")
    return await service.log_lines(lines)


COMMAND = Command(
    name="logs",
    doc="""Show the last lines of the service's log file, or with --follow those that are written from now on too.

    A service that was started without --log-file writes its log to its standard output: a terminal, or the journal.
    """,
    run=run,
    parameters=(
        Parameter("lines", "integer", "how many, at most", positional=True, metavar="N", default="100", remote="plain"),
        Parameter(
            "follow",
            "flag",
            "go on with what is written, until Ctrl-C (on this machine only)",
            short="-f",
            remote="plain",
        ),
    ),
    access="local",
    changes=False,
    remote=True,
    render="logs",
)
