"""The ``version`` command."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cluster_service._version import __version__

from .registry import Command

if TYPE_CHECKING:
    from .service_interface import Service


def run(service: Service | None) -> dict[str, Any]:
    """Return the version of the service, or of the command line if no service runs."""
    return {"version": __version__, "service": service.name if service is not None else None}


COMMAND = Command(
    name="version",
    doc="""Show the version of the running service, or of this program when none runs.""",
    run=run,
    access="remote",
    changes=False,
    remote=True,
    render="version",
    without_service=True,
)
