"""The ``restart`` command."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import NO_WAIT, SELECTOR, TIMEOUT
from .registry import Command

if TYPE_CHECKING:
    from .service_interface import Service


def run(service: Service, selector: str, timeout: float | None = None) -> dict[str, Any]:
    """Start the operation."""
    return service.restart(selector, timeout)


COMMAND = Command(
    name="restart",
    doc="""Replace workers by new ones of the same release, ready-first.

    No worker is stopped before its successor is serving. A worker that does not become ready in TIMEOUT fails the
    operation, and the workers that were not replaced yet serve on.
    """,
    run=run,
    parameters=(SELECTOR, TIMEOUT, NO_WAIT),
    operation=True,
    remote=True,
    render="operation",
)
