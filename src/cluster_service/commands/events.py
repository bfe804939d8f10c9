"""The ``events`` command."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cluster_service.errors import CommandError

from .registry import Command, Parameter

if TYPE_CHECKING:
    from .service_interface import Service


def run(service: Service, limit: int = 50, *, follow: bool = False) -> dict[str, Any]:
    """Return the latest events, oldest first. Raises CommandError bad_request."""
    if follow:
        hint = "GET /api/v1/events is the stream."
        raise CommandError("bad_request", "events: only the command line can follow", hint)
    return {"service": service.name, "events": service.recent_events(limit)}


COMMAND = Command(
    name="events",
    doc="""Show what has happened lately, or with --follow what happens from now on, one line an event.

    Over HTTP `GET /api/v1/events` is the stream that does not end.
    """,
    run=run,
    parameters=(
        Parameter("limit", "integer", "how many, at most", positional=True, metavar="N", default="50", remote="plain"),
        Parameter("follow", "flag", "go on with those that happen, until Ctrl-C", short="-f", remote="plain"),
    ),
    access="remote",
    changes=False,
    remote=True,
    render="events",
)
