"""The ``operations`` command."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import NO_WAIT
from .registry import Command, Parameter

if TYPE_CHECKING:
    from .service_interface import Service


def run(service: Service, operation: str | None = None) -> dict[str, Any]:
    """Return one operation, or all that are remembered, newest first. Raises CommandError not_found."""
    if operation is not None:
        return service.operation(operation)
    return {"service": service.name, "operations": service.operations()}


COMMAND = Command(
    name="operations",
    doc="""Show the operations, newest first, or rejoin one: `operations ID` follows it to its end.""",
    run=run,
    parameters=(
        Parameter("operation", "text", "the operation's id", positional=True, metavar="ID", remote="plain"),
        NO_WAIT,
    ),
    access="remote",
    changes=False,
    remote=True,
    render="operations",
)
