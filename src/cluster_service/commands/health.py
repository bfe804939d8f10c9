"""The ``health`` command."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .registry import Command

if TYPE_CHECKING:
    from .service_interface import Service


def run(service: Service) -> dict[str, Any]:
    """Return the health of the service."""
    return service.health()


COMMAND = Command(
    name="health",
    doc="""Show whether the service is ok, degraded (some workers are missing) or down, and why.""",
    run=run,
    access="remote",
    changes=False,
    remote=True,
    render="health",
)
