"""The ``cancel`` command."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import NO_WAIT
from .registry import Command, Parameter

if TYPE_CHECKING:
    from .service_interface import Service


def run(service: Service, operation: str | None = None) -> dict[str, Any]:
    """Return the operation, which runs until it has been undone. Raises CommandError if there is none."""
    return service.cancel(operation)


COMMAND = Command(
    name="cancel",
    doc="""Undo an upgrade, rollback or restart that is under way, or end a test.

    Every worker is put back on the code that it had.
    """,
    run=run,
    parameters=(
        Parameter(
            "operation",
            "text",
            "the operation's id",
            positional=True,
            metavar="ID",
            default="the only one",
            remote="plain",
        ),
        NO_WAIT,
    ),
    operation=True,
    remote=True,
    succeeds="cancelled",
    render="operation",
)
