"""``cservice``: the command line, built with click from the command registry and the table of settings.

    cservice [--name N | --url U --access-key K] [--json] COMMAND …       options may also follow the command
    cservice "restart all" --access-key K                                 the same command, as one quoted line
    cservice server.py …                                                  short for: cservice start server.py …
    cservice                                                              the console

Imports only what the given command needs. The exit codes are those of ``errors.CODES``, and 130 after Ctrl-C.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import click

from cluster_service.commands import arguments
from cluster_service.commands.registry import ARGS, COMMANDS, NAME, Command, Parameter
from cluster_service.errors import CommandError

from .options import LOCAL_SUMMARIES, START_SUMMARY, from_environment, global_options, session_of, usage_error
from .output import INTERRUPTED, ReaderLeft, out, say
from .session import Session

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

BROKEN_PIPE = 141
"""Exit code after a broken pipe: 128 + SIGPIPE, as in a shell."""


class Main(click.Group):
    """The group of commands; each is created on first use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the commands."""
        del ctx
        return [*COMMANDS.names(), *LOCAL_SUMMARIES]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Create the command."""
        del ctx
        if cmd_name == "start":
            from .start_service import make_start  # imports the settings

            return make_start()
        if cmd_name in LOCAL_SUMMARIES:
            from . import local_commands  # rarely needed

            return local_commands.find(cmd_name)
        try:
            return ServiceCommand(COMMANDS.get(cmd_name))
        except CommandError as error:
            if not NAME.match(cmd_name):
                raise
            from .custom_commands import OwnCommand  # only needed for custom commands

            return OwnCommand(cmd_name, error, global_options(), session_of)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Split a quoted command line, and insert ``start`` before a program."""
        first = args[0]
        spaced = any(char.isspace() for char in first.strip())
        if first.endswith(".py") and (not spaced or os.path.isfile(first)):
            args = ["start", *args]
        elif spaced:
            args = [*arguments.split(first), *args[1:]]
        name = args[0]
        return name, self.get_command(ctx, name), args[1:]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the summaries of the commands."""
        del ctx
        with formatter.section("Commands"):
            summaries = {command.name: command.summary for command in COMMANDS.all()}
            summaries |= {"start": START_SUMMARY, **LOCAL_SUMMARIES}
            formatter.write_dl(list(summaries.items()))


class ServiceCommand(click.Command):
    """A command of the registry. click knows its options; ``arguments`` parses its words, as for HTTP."""

    def __init__(self, command: Command) -> None:
        parameters: list[click.Parameter] = [click.Argument(["words"], nargs=-1, type=click.UNPROCESSED)]
        parameters += [option_of(parameter) for parameter in command.parameters]
        super().__init__(
            command.name,
            params=[*parameters, *global_options(hidden=True)],
            callback=self._run,
            context_settings={"ignore_unknown_options": True, "help_option_names": ["-h", "--help"]},
        )
        self.command = command

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Keep the first ``--``, which click would remove, if any program may follow it."""
        if "--" in args and any(parameter.name == ARGS for parameter in self.command.parameters):
            place = args.index("--")
            args = [*args[:place], "--", *args[place:]]
        return super().parse_args(ctx, args)

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the same help as ``help COMMAND``."""
        from .rendering import show

        formatter.write("Usage: cservice ")
        formatter.write(show("help", self.command.describe(), terminal=False).removeprefix("Usage: ") + "\n")
        formatter.write(
            "\nThe options of cservice itself (--name, --url, --json …) may stand here too: cservice --help\n"
        )
        del ctx

    def _run(self, words: tuple[str, ...], **options: Any) -> int:
        session = session_of(click.get_current_context(), options)
        given = {
            parameter.name: value
            for parameter in self.command.parameters
            if (value := options.get(parameter.name)) not in (None, (), False)
        }
        given = {name: list(value) if isinstance(value, tuple) else value for name, value in given.items()}
        try:
            return session.give(*self._read(session, words, given))
        except CommandError as error:
            return session.failed(error)

    def _read(self, session: Session, words: Sequence[str], given: dict[str, Any]) -> tuple[Command, dict[str, Any]]:
        try:
            return self.command, arguments.from_words(self.command, words, given)
        except CommandError:
            own = session.own(self.command.name)  # the service overrides this command
            if own is None:
                raise
        return own, arguments.from_words(own, words, given)


def option_of(parameter: Parameter) -> click.Option:
    """Return the click option of a command's parameter; ``arguments`` checks its value."""
    names = [parameter.option, parameter.name] + ([parameter.short] if parameter.short else [])
    if parameter.kind == "flag":
        return click.Option(names, is_flag=True, help=parameter.doc)
    return click.Option(names, multiple=parameter.many, metavar=parameter.label, help=parameter.doc, type=str)


def make_main() -> Main:
    """Return the command line."""
    options = global_options()
    options.append(click.Option(["--version", "show_version"], is_flag=True, help="Show the version of this program."))
    return Main(
        "cservice",
        params=options,
        callback=_main,
        invoke_without_command=True,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
        help="Run a program as a service of many workers, and command the services that run.\n\n"
        "Without a command: a console. `cservice server.py` is `cservice start server.py`. A running service may have "
        "commands of its own: `cservice help` lists them too.",
        subcommand_metavar="COMMAND ...",
    )


def _main(show_version: bool, **options: Any) -> int | None:
    context = click.get_current_context()
    context.obj = from_environment().with_options(read_start=_read_start, **options)
    if show_version:
        from cluster_service._version import __version__

        out(f"cluster-service {__version__}")
        context.exit(0)
    if context.invoked_subcommand is None:
        return _console(context.obj)
    return None


def _read_start(words: Sequence[str], session: Mapping[str, Any]) -> Any:
    from .start_service import read  # imports the settings

    return read(words, session)


def _console(session: Session) -> int:
    from . import console

    try:
        session.client()  # fail early if there is no service
    except CommandError as error:
        return session.failed(error)
    return console.run(session).code


def run(argv: Sequence[str]) -> int:
    """Run the command line and return the exit code."""
    if _is_tab(argv):
        from . import local_commands  # called by the shell at each Tab

        return local_commands.words(argv)
    try:
        code = make_main().main(list(argv), prog_name="cservice", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.UsageError as error:
        return _plain(argv).failed(usage_error(error))
    except CommandError as error:
        return _plain(argv).failed(error)
    except (KeyboardInterrupt, click.Abort):
        say("")
        return INTERRUPTED


def _is_tab(argv: Sequence[str]) -> bool:
    """Return True if the shell requests completions."""
    return list(argv[:2]) == ["completion", "--words"]


def _plain(argv: Sequence[str]) -> Session:
    """Return a session to report an error when the options could not be parsed.

    ``--json`` counts only before the arguments of the user's program.
    """
    own = []
    for word in argv:
        if word == "--" or word.endswith(".py"):
            break
        own.append(word)
    return Session(as_json="--json" in own)


def guarded(program: Callable[[], int]) -> int:
    """Run *program* and return its exit code; exit silently if the reader of the output has gone."""
    try:
        return program()
    except (ReaderLeft, BrokenPipeError):
        null = os.open(os.devnull, os.O_WRONLY)
        for stream in (sys.stdout, sys.stderr):
            os.dup2(null, stream.fileno())
        return BROKEN_PIPE


SEEN = ("--access-key", "--env")
"""Options whose values are secret but visible in the process list."""


def _hide_secrets() -> None:
    """Remove secrets from the process title as early as possible."""
    if any(option in word for word in sys.argv for option in SEEN):
        from setproctitle import setproctitle  # rarely needed

        setproctitle("cservice")


def main() -> None:
    """Run ``cservice``."""
    _hide_secrets()
    sys.exit(guarded(lambda: run(sys.argv[1:])))


def main_detached() -> None:
    """Run ``cserviced``: ``cservice start --detach``."""
    _hide_secrets()
    words = sys.argv[1:]
    sys.exit(guarded(lambda: run(words if _is_tab(words) else ["start", "--detach", *words])))


__all__ = ["main", "main_detached", "make_main", "run"]
