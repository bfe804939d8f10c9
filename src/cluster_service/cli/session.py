"""One command given by a person or a script: sends it, follows it, prints the result, and returns an exit code.

Text goes to standard output, errors go to standard error. With ``--json`` standard output is exactly one JSON document:
the result, or the error object; the error message is also printed to standard error.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from cluster_service.client.client import Client, OperationFailed, connect
from cluster_service.commands import arguments
from cluster_service.commands.json_text import encode_for_terminal
from cluster_service.commands.registry import COMMANDS, Command
from cluster_service.errors import CommandError

from . import rendering
from .output import INTERRUPTED, out, say

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Self

    from cluster_service.client.results import Operation

@dataclass(frozen=True)
class Session:
    """The selected service, and how results are printed."""

    name: str = "default"
    url: str | None = None
    access_key: str | None = None
    access_key_file: str | None = None
    ca_file: str | None = None
    client_cert: str | None = None
    run_dir: str | None = None
    as_json: bool = False
    compact: bool = False
    """Print each JSON document on one line, since several may follow."""
    read_start: Callable[..., Any] | None = None
    """Parser of the arguments of ``cservice start``, for commands that describe a service without starting it."""

    def with_options(self, **options: Any) -> Self:
        """Return the session with the given *options* applied."""
        return replace(self, **{name: value for name, value in options.items() if value not in (None, False)})

    def client(self) -> Client:
        """Return a client of the selected service. Raises CommandError."""
        key = self.access_key
        if self.access_key_file is not None:
            from cluster_service.config.credentials import from_file  # rarely needed

            key = from_file(os.path.abspath(self.access_key_file), "--access-key-file")
        return connect(
            self.name,
            url=self.url,
            access_key=key,
            run_dir=self.run_dir,
            ca_file=self.ca_file,
            client_cert=self.client_cert,
        )

    # -- output ------------------------------------------------------------------------------------------------------

    def show(self, command: Command, data: Mapping[str, Any]) -> None:
        """Print a result."""
        if self.as_json:
            self.document(data)
        else:
            out(rendering.show(command.render, data, terminal=rendering.is_terminal()))

    def document(self, data: Mapping[str, Any]) -> None:
        """Print a JSON document."""
        out(encode_for_terminal(data, indent=None if self.compact else 2))

    def failed(self, error: CommandError) -> int:
        """Print an error; return its exit code."""
        say(f"cservice: {rendering.clean_lines(error.message)}")
        if error.hint:
            say(f"  {rendering.clean_lines(error.hint)}")
        if self.as_json:
            self.document(error.to_json())
        return error.exit_code

    # -- commands ----------------------------------------------------------------------------------------------------

    def line(self, words: Sequence[str]) -> int:
        """Run the command in *words*; return the exit code."""
        try:
            return self.give(*self.read(words[0], words[1:]))
        except CommandError as error:
            return self.failed(error)

    def read(self, name: str, words: Sequence[str]) -> tuple[Command, dict[str, Any]]:
        """Return the command, built-in or custom, and its arguments. Raises CommandError."""
        try:
            command = COMMANDS.get(name)
            return command, arguments.from_words(command, words)
        except CommandError as error:
            own = self.own(name)
            if own is None:
                raise
            first = error
        try:
            return own, arguments.from_words(own, words)
        except CommandError as error:
            raise first if first.code != "no_such_command" and not own.custom else error from None

    def own(self, name: str) -> Command | None:
        """Return the custom command *name*; None if it is a built-in one or the service does not answer.

        Raises CommandError no_such_command if the service does not know it either.
        """
        from cluster_service.client import service_commands  # only needed for custom commands

        try:
            commands = service_commands.commands_of(self.client())
        except CommandError:
            return None
        command = service_commands.find(commands, name)
        return command if command.custom else None

    def give(self, command: Command, given: Mapping[str, Any]) -> int:
        """Run *command* with its checked arguments; return the exit code."""
        try:
            return self._give(command, dict(given))
        except OperationFailed as error:
            told = f"{error.operation['command']}: {error.operation['state']}: {error.message}"
            say(f"cservice: {rendering.clean_lines(told, rendering.INDENT)}")
            if self.as_json:
                self.document(error.to_json())
            return error.exit_code
        except CommandError as error:
            return self.failed(error)

    def _give(self, command: Command, given: dict[str, Any]) -> int:
        wait = not given.pop("no_wait", False)
        if command.here is not None and self.url is None:
            alone = command.here(vars(self), **given)
            if alone is not None:
                self.show(command, alone)
                return 0
        try:
            client = self.client()
        except CommandError as error:
            if not command.without_service or self.url is not None or error.code != "unavailable":
                raise
            self.show(command, _answer_alone(command, given))
            return 0
        if given.pop("follow", False) and not command.custom:
            from .following import FOLLOWED  # rarely needed

            return FOLLOWED[command.name](client, given, as_json=self.as_json)
        try:
            result = client.give(command.name, arguments.from_here(command, given), command.timeout)
        except KeyboardInterrupt:
            if not command.changes:
                raise
            say(f"\ncservice: interrupted; {command.name} may have begun (cservice operations shows it)")
            return INTERRUPTED
        if "steps" in result:
            return self._follow(client, command, cast("Operation", result), wait=wait)
        self.show(command, result)
        return 0

    def _follow(self, client: Client, command: Command, operation: Operation, *, wait: bool) -> int:
        if not wait and operation["state"] == "running":
            if self.as_json:
                self.document(operation)
            else:
                out(
                    f"{operation['command']} has begun as operation {operation['id']}; "
                    f"follow it: {self.rejoin(operation['id'])}"
                )
            return 0

        shown = False
        try:
            shown = not self.as_json and operation["state"] == "running" and rendering.can_move()
            follow = self._follow_on_terminal if shown else self._follow_in_lines
            self._ended(command, follow(client, operation))
        except KeyboardInterrupt:
            begin = "" if shown else "\n"  # the terminal shows ^C
            what = f"{operation['command']} goes on as operation {operation['id']}"
            say(f"{begin}cservice: left; {what}. Rejoin it: {self.rejoin(operation['id'])}")
            if self.as_json:
                self.document(operation)
            return INTERRUPTED
        except CommandError as error:
            if error.code == "timeout":
                error.hint = f"{operation['command']} may go on. Rejoin it: {self.rejoin(operation['id'])}"
            raise
        return 0

    def _follow_in_lines(self, client: Client, operation: Operation) -> Operation:
        """Print one line per step, or with ``--json`` nothing before the result."""

        def on_step(step: Mapping[str, Any]) -> None:
            if not self.as_json:
                out(rendering.line(step["text"]))

        return client.follow(operation, on_step)

    def _follow_on_terminal(self, client: Client, operation: Operation) -> Operation:
        """Print one line per step, with progress below. The output of a test is printed without progress."""
        if str(operation["command"]).partition(" ")[0] == "test":
            return self._follow_in_lines(client, operation)
        from .following import Progress  # rich is slow to import: only for a terminal

        with Progress() as progress:
            return client.follow(
                operation, lambda step: progress.step(rendering.line(step["text"])), on_news=progress.news, wait=1.0
            )

    def _ended(self, command: Command, operation: Operation) -> None:
        if operation["state"] != command.succeeds:
            raise OperationFailed(operation)
        if self.as_json:
            self.document(operation)
        else:
            shown = "operation" if command.render == "operations" else command.render
            out(rendering.show(shown, operation, terminal=rendering.is_terminal()))

    def rejoin(self, operation: str) -> str:
        """Return the command line that follows an operation."""
        if self.url is not None:
            return f"cservice --url {self.url} operations {operation}"
        return f"cservice {'' if self.name == 'default' else f'--name {self.name} '}operations {operation}"


def _answer_alone(command: Command, given: Mapping[str, Any]) -> dict[str, Any]:
    result = command.run(None, **given)
    assert isinstance(result, dict)  # a command that needs no service is not a coroutine
    return result
