"""The commands of a running service, for the command line, the console and clients.

Custom commands and overridden built-in ones are known only to the service, which describes them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cluster_service.config import values

from .arguments import KINDS
from .errors import CommandError
from .registry import NAME, Command, Parameter, alike
from .render import RENDERINGS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from .client import Client


def commands_of(client: Client) -> list[Command]:
    """Return the commands of the service, the built-in ones first. Raises CommandError if it does not answer."""
    return commands_from(client.commands())


def commands_from(described: Iterable[Mapping[str, Any]]) -> list[Command]:
    """Return the commands described, except those with an invalid name."""
    return [command_from(each) for each in described if NAME.match(str(each.get("name")))]


def find(commands: Iterable[Command], name: str) -> Command:
    """Return the command *name*, in any spelling. Raises CommandError no_such_command, with the closest name."""
    commands = list(commands)
    exact = [command for command in commands if command.name == name]
    near = [command for command in commands if command.custom and alike(command.name, name)]
    for command in (*exact, *near):
        return command
    suggestion = values.suggestion(name.lower(), [command.name for command in commands])
    raise CommandError("no_such_command", f"there is no command {name[:80]!r}{suggestion}", "help lists the commands.")


def command_from(described: Mapping[str, Any]) -> Command:
    """Invert ``Command.describe``, except for the handler. Unknown fields of a newer service are ignored."""
    render = str(described.get("render", "fields"))
    return Command(
        name=str(described["name"]),
        doc=str(described.get("doc", "")),
        run=_elsewhere,
        parameters=tuple(_parameter(each) for each in described.get("parameters", ())),
        access=described.get("access", "local"),
        operation=bool(described.get("operation")),
        changes=bool(described.get("changes", True)),
        succeeds=str(described.get("succeeds", "done")),
        render=render if render in RENDERINGS else "fields",
        custom=bool(described.get("custom")),
        timeout=float(described.get("timeout_s") or 0.0),
    )


def _parameter(described: Mapping[str, Any]) -> Parameter:
    kind = str(described.get("kind"))
    choices = tuple(str(choice) for choice in described.get("choices", ()))
    return Parameter(
        str(described["name"]),
        kind if kind in KINDS else "any",
        str(described.get("doc", "")),
        required=bool(described.get("required")),
        positional=bool(described.get("positional")),
        choices=choices,
        short=str(described.get("short", "")),
        many=bool(described.get("many")),
        metavar="" if choices else str(described.get("label", "")),
        default=str(described.get("default", "")),
    )


def _elsewhere(*_args: Any, **_arguments: Any) -> dict[str, Any]:
    raise CommandError("unavailable", "this command is run by its service")
