"""The commands of a running service, and the parsing of commands given in Python.

Custom commands and overridden built-in ones are known only to the service, which describes them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from cluster_service.commands.arguments import KINDS, from_call, from_here
from cluster_service.commands.registry import COMMANDS, NAME, RENDERINGS, Command, Parameter, alike
from cluster_service.config import setting_values
from cluster_service.errors import CommandError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence


class HasCommands(Protocol):
    """A client of a running service."""

    def commands(self) -> list[dict[str, Any]]:
        """Return the descriptions of the service's commands."""


def commands_of(client: HasCommands) -> list[Command]:
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
    suggestion = setting_values.suggestion(name.lower(), [command.name for command in commands])
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


Json = dict[str, Any]


def built_in(name: str, args: Sequence[object], options: Mapping[str, Any]) -> tuple[Command, Json]:
    """Return the built-in command *name* and its arguments in the form in which they are sent. Raises CommandError."""
    return _read(COMMANDS.get(name), args, options)


def own(
    commands: list[Json], name: str, args: Sequence[object], options: Mapping[str, Any]
) -> tuple[Command, Json] | None:
    """Return the custom command *name*, found in *commands*, and its arguments; None if it is a built-in one.

    Raises CommandError, also if the command does not exist.
    """
    command = find(commands_from(commands), name)
    return _read(command, args, options) if command.custom else None


def _read(command: Command, args: Sequence[object], options: Mapping[str, Any]) -> tuple[Command, Json]:
    return command, from_here(command, from_call(command, args, options))
