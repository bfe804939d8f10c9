"""The ``info`` command."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .registry import Command

if TYPE_CHECKING:
    from .service_interface import Service


def run(service: Service) -> dict[str, Any]:
    """Return the general information about the service."""
    return service.info()


COMMAND = Command(
    name="info",
    doc="""Show the service as a whole: version, pids, uptime, ports, doors, groups, the running operation.""",
    run=run,
    access="remote",
    changes=False,
    remote=True,
    render="fields",
)
