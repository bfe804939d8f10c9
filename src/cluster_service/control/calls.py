"""Parsing of commands given in Python, by name and arguments; shared by both clients."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .arguments import from_call, from_here
from .registry import COMMANDS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .registry import Command

Json = dict[str, Any]


def built_in(name: str, args: Sequence[object], options: Mapping[str, Any]) -> tuple[Command, Json]:
    """Return the built-in command *name* and its arguments in the form in which they are sent. Raises CommandError."""
    return _read(COMMANDS.get(name), args, options)


def own(
    commands: list[Json], name: str, args: Sequence[object], options: Mapping[str, Any]
) -> tuple[Command, Json] | None:
    """Return the custom command *name*, found in *commands*, and its arguments; None if it is a built-in one.

    Raises CommandError, also if there is no such command.
    """
    from . import remote  # noqa: PLC0415 - only needed for custom commands

    command = remote.find(remote.commands_from(commands), name)
    return _read(command, args, options) if command.custom else None


def _read(command: Command, args: Sequence[object], options: Mapping[str, Any]) -> tuple[Command, Json]:
    return command, from_here(command, from_call(command, args, options))
