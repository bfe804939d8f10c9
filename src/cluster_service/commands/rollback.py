"""The ``rollback`` command."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from . import MONITOR, NO_WAIT, TIMEOUT
from .registry import Command, Parameter

if TYPE_CHECKING:
    from .service_interface import Service


def run(
    service: Service, selector: str = "all", timeout: float | None = None, monitor: float | None = None
) -> dict[str, Any]:
    """Start the operation."""
    return service.rollback(selector, monitor, timeout)


COMMAND = Command(
    name="rollback",
    doc="""Go back to the release that was promoted before this one; once more goes one further back.

    Workers are replaced ready-first, as by an upgrade. If the earlier release does not work any more, this one stays.
    """,
    run=run,
    parameters=(
        Parameter(
            "selector", "selector", "the group", positional=True, metavar="all|GROUP", default="all", remote="plain"
        ),
        TIMEOUT,
        replace(MONITOR, doc="how long it is watched", default="0s"),
        NO_WAIT,
    ),
    operation=True,
    remote=True,
    render="operation",
)
