"""The ``scale`` command."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import NO_WAIT, TIMEOUT
from .registry import Command, Parameter

if TYPE_CHECKING:
    from .service_interface import Service


def run(service: Service, change: str, group: str | None = None, timeout: float | None = None) -> dict[str, Any]:
    """Start the operation."""
    return service.scale(change, group, timeout)


COMMAND = Command(
    name="scale",
    doc="""Change the number of workers of a group: `scale 4`, `scale +1`, `scale -1 jobs`.

    GROUP may be left out when there is only one.
    """,
    run=run,
    parameters=(
        Parameter(
            "change",
            "change",
            "the number of workers, or by how many more or fewer",
            required=True,
            positional=True,
            metavar="N|+N|-N",
            remote="plain",
        ),
        Parameter("group", "text", "the group", positional=True, default="the only one", remote="plain"),
        TIMEOUT,
        NO_WAIT,
    ),
    operation=True,
    remote=True,
    render="operation",
)
