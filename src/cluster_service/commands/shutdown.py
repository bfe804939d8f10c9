"""The ``shutdown`` command."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import NO_WAIT, SELECTOR, TIMEOUT
from .registry import Command

if TYPE_CHECKING:
    from .service_interface import Service


def run(service: Service, selector: str, timeout: float | None = None) -> dict[str, Any]:
    """Start the operation."""
    return service.shutdown(selector, timeout)


COMMAND = Command(
    name="shutdown",
    doc="""End workers gracefully and do not replace them; `shutdown all` ends the service.

    A worker that has not ended after TIMEOUT is killed.
    """,
    run=run,
    parameters=(SELECTOR, TIMEOUT, NO_WAIT),
    operation=True,
    remote=True,
    render="operation",
)
