"""The ``reload`` command."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import MONITOR, NO_WAIT, TIMEOUT
from .registry import Command, Parameter

if TYPE_CHECKING:
    from .service_interface import Service


async def run(
    service: Service,
    timeout: float | None = None,  # a timeout for the workers
    monitor: float | None = None,
    plan: bool = False,
) -> dict[str, Any]:
    """Start the operation, or return the plan."""
    return await service.reload(plan, monitor, timeout)


COMMAND = Command(
    name="reload",
    doc="""Read the configuration again, and take up what has changed in it.

    What was given where the service was started stays given: its options, its environment, its directory and file. A
    mistake changes nothing. Workers are replaced, ready-first and watched as in an upgrade, only in groups where what
    they run has changed; counts, timeouts, restart policy, access keys and the like need no restart. What a running
    service cannot change is told.
    """,
    run=run,
    parameters=(
        TIMEOUT,
        MONITOR,
        Parameter("plan", "flag", "only show what would change, and who would restart", remote="plain"),
        NO_WAIT,
    ),
    operation=True,
    remote=True,
    render="reload",
)
