"""The ``help`` command."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .registry import COMMANDS, Command, Parameter

if TYPE_CHECKING:
    from .service_interface import Service


def run(service: Service | None, command: str | None = None) -> dict[str, Any]:  # noqa: ARG001 - the same with and without
    """Return the definition of one command, or of all. Raises CommandError no_such_command."""
    if command is not None:
        return COMMANDS.get(command).describe()
    return {"commands": [known.describe() for known in COMMANDS.all()]}


COMMAND = Command(
    name="help",
    doc="""Show the commands, or one of them with its arguments.""",
    run=run,
    parameters=(Parameter("command", "text", "the command", positional=True, remote="plain"),),
    access="remote",
    changes=False,
    remote=True,
    render="help",
    without_service=True,
)
