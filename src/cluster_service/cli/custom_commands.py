"""Custom commands on the command line, which knows them only from the service.

    cservice greet Ann --json          first selects the service, then fetches the definition, then parses the arguments

Options of cservice itself (``--name``, ``--json`` …) may follow the command, unless the command has an option of the
same name, which takes precedence.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from cluster_service.commands import arguments
from cluster_service.errors import CommandError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cluster_service.commands.registry import Command

    from .session import Session

HELP = ("-h", "--help")


class OwnCommand(click.Command):
    """A command that only the service knows. *unknown*: the error to report if the service does not know it either."""

    def __init__(
        self,
        name: str,
        unknown: CommandError,
        options: Sequence[click.Parameter],
        session: Callable[[click.Context, dict[str, Any]], Session],
    ) -> None:
        super().__init__(name, callback=None, add_help_option=False)
        self._unknown = unknown
        self._session = session
        self._flags = {flag: option for option in options for flag in option.opts}
        self._words: list[str] = []

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Keep all arguments: only the definition from the service shows which are options of the command."""
        del ctx
        self._words = list(args)
        return []

    def invoke(self, ctx: click.Context) -> int:
        """Find the service and the command, parse the arguments, and run the command."""
        assert ctx.parent is not None  # it is a command of the group
        base = self._session(ctx, {})
        command = self._own(base)
        clash = {parameter.option for parameter in command.parameters} if command else set()
        options, words = self._take(clash)
        session = self._session(ctx, options)
        try:
            if session != base:
                command = self._own(session)
            if command is None:
                session.client().commands()  # raises the error if the service does not answer
                raise self._unknown
            if set(HELP) & set(words):
                from .output import out
                from .rendering import show

                out("Usage: cservice " + show("help", command.describe(), terminal=False).removeprefix("Usage: "))
                return 0
            return session.give(command, arguments.from_words(command, words))
        except CommandError as error:
            if error.code == "unavailable" and self._unknown.message.endswith("?"):
                error = self._unknown  # more likely a misspelled name
            return session.failed(error)

    def _own(self, session: Session) -> Command | None:
        try:
            return session.own(self.name or "")
        except CommandError as error:
            self._unknown = error  # the service may suggest a closer name
            return None

    def _take(self, clash: set[str]) -> tuple[dict[str, Any], list[str]]:
        """Separate the options of cservice itself from the other words."""
        options: dict[str, Any] = {}
        rest: list[str] = []
        words = list(self._words)
        while words:
            word = words.pop(0)
            flag, equals, value = word.partition("=")
            option = self._flags.get(flag)
            if word == "--":
                return options, [*rest, word, *words]
            if option is None or flag in clash or option.name is None:
                rest.append(word)
            elif getattr(option, "is_flag", False):
                options[option.name] = True
            elif equals or words:
                options[option.name] = value if equals else words.pop(0)
            else:
                raise CommandError("bad_request", f"{flag} needs a value")
        return options, rest


__all__ = ["OwnCommand"]
