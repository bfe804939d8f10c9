"""Commands as a program gives them, by name and arguments of Python: what both clients send."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .arguments import from_call, from_here
from .registry import COMMANDS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .registry import Command

Json = dict[str, Any]


def built_in(name: str, args: Sequence[object], options: Mapping[str, Any]) -> tuple[Command, Json]:
    """Return the command, one of ours, and its arguments as they are sent. Raises CommandError."""
    return _read(COMMANDS.get(name), args, options)


def own(
    commands: list[Json], name: str, args: Sequence[object], options: Mapping[str, Any]
) -> tuple[Command, Json] | None:
    """Return the same of a service's own command, of those that it has; None when it has none of that name.

    Raises CommandError.
    """
    from . import remote  # noqa: PLC0415 - only for what is not known here

    command = remote.find(remote.commands_from(commands), name)
    return _read(command, args, options) if command.custom else None


def _read(command: Command, args: Sequence[object], options: Mapping[str, Any]) -> tuple[Command, Json]:
    return command, from_here(command, from_call(command, args, options))
