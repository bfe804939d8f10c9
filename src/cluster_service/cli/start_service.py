"""``cservice start``: the only command that needs no running service and starts one.

Its options are the table of settings. All words after TARGET belong to the program; after ``--`` the target may be any
program. If a service of that name already runs, ``--group`` adds a group to it; without ``--group`` nothing is started,
and this becomes a console of the running service.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from cluster_service import rundir
from cluster_service.commands import arguments
from cluster_service.commands.registry import COMMANDS
from cluster_service.config.precedence import gather
from cluster_service.config.settings_table import BY_NAME, GROUP, SETTINGS, Setting
from cluster_service.config.targets import APP, MODULE
from cluster_service.errors import CommandError

from . import console
from .options import session_of, usage_error
from .output import out, say

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .session import Session

DASHES = "\0--"
"""Placeholder for the ``--`` before TARGET, which click would remove."""
DASH_M = "\0-m"
"""Placeholder for the ``-m`` before a module name, which ends the options, as in the Python interpreter."""

GLANCE_SECONDS = 5.0
"""How long a detached start waits for the list of its workers."""


HELP = """Start TARGET as a service.

TARGET is a Python file (worker.py; also a directory or zip file with a __main__.py), an app (package.module:app, ASGI
or WSGI), a module (-m package.module) or, after --, any program (-- node server.js). What follows a file, module or
program are its arguments, also after -- (manage.py -- runserver); options may follow an app. If a service of that name
runs already, --group adds a group of workers to it; without --group this becomes a console of it.

The options may also stand in the environment (CSERVICE_WORKERS=4), in cluster-service.toml, or in
[tool.cluster-service] of pyproject.toml.
"""


class Start(click.Command):
    """The click command; records whether TARGET stood after ``--``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Keep the first ``--``, which may mark the target as a program, and ``-m``, which ends the options."""
        args = self._module(ctx, args)
        if "--" in args:
            place = args.index("--")
            args = [*args[:place], DASHES, *args[place + 1 :]]
        return super().parse_args(ctx, self._own_first(ctx, args))

    def _own_first(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Move options behind an app in front of it: an app has no arguments of its own."""
        words = self._words(ctx, args)
        if len(words) < 2 or not words[1].startswith("-") or not APP.match(words[0]):
            return args
        behind = words[1 : words.index(DASHES)] if DASHES in words else words[1:]
        left = self._words(ctx, behind)
        own = behind[: len(behind) - len(left)]
        rest = words[1 + len(own) :]
        return [*args[: len(args) - len(words)], *own, words[0], *rest]

    def _module(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Mark ``-m``, unless it follows the target or is the value of an option."""
        place = next((place for place, word in enumerate(args) if word == "-m" or MODULE.match(word)), None)
        if place is None or "--" in args[:place]:
            return args
        try:
            if self._words(ctx, args[:place]):
                return args
        except click.UsageError:  # reported when all words are parsed
            return args
        name = [args[place][2:].strip()] if args[place] != "-m" else []
        return [*args[:place], DASH_M, *name, *args[place + 1 :]]

    def _words(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Return the words of *args* after the options."""
        words = self.make_parser(ctx).parse_args(list(args))[0].get("words")
        return list(words) if isinstance(words, tuple) else []  # click uses a sentinel for none


def make_start() -> click.Command:
    """Return the click command."""
    options: list[click.Parameter] = [_option(setting) for setting in SETTINGS if setting.flags]
    options.append(
        click.Option(["--no-wait", "no_wait"], is_flag=True, help="When it adds a group: do not wait for it.")
    )
    options.append(click.Option(["--json", "as_json"], is_flag=True, help="Print JSON."))
    options.append(click.Argument(["words"], nargs=-1, type=click.UNPROCESSED, metavar="TARGET [ARGS]..."))
    return Start(
        "start",
        params=options,
        callback=_run,
        context_settings={
            "allow_interspersed_args": False,
            "help_option_names": ["-h", "--help"],
            "max_content_width": 110,
        },
        help=HELP,
    )


def _option(setting: Setting) -> click.Option:
    names = [*setting.flags, setting.name]
    default = setting.shown or (str(setting.default) if setting.default not in (None, (), True, False) else "")
    text = setting.doc + (f" [{default}]" if default else "")
    if setting.kind == "flag":
        return click.Option(names, default=None, help=text)
    return click.Option(
        names, metavar=setting.metavar or "|".join(setting.choices), multiple=setting.many, default=None, help=text
    )


class Read(NamedTuple):
    """The parsed arguments of ``cservice start``. *program*: TARGET stood after ``--``."""

    options: dict[str, Any]
    target: str | None
    args: list[str]
    program: bool


def read(words: Sequence[str], session: Mapping[str, Any]) -> Read:
    """Parse the arguments of ``cservice start``. *session*: the options that select the service.

    Raises CommandError bad_request.
    """
    try:
        given = make_start().make_context("start", list(words)).params
    except click.exceptions.Exit:
        raise CommandError("bad_request", "cservice start --help tells what can stand there") from None
    except click.UsageError as error:
        raise usage_error(error) from None
    given.pop("as_json")
    given.pop("no_wait")
    return _read(given.pop("words"), given, session)


def _run(words: tuple[str, ...], as_json: bool, no_wait: bool, **given: Any) -> int:
    from cluster_service.launcher import hold_signals  # after the options were parsed

    hold_signals()
    session = session_of(click.get_current_context(), {"as_json": as_json})
    try:
        found = _read(words, given, vars(session))
        return _start(session, found.options, found.target, found.args, program=found.program, no_wait=no_wait)
    except CommandError as error:
        return session.failed(error)


def _read(words: Sequence[str], given: Mapping[str, Any], session: Mapping[str, Any]) -> Read:
    options = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in given.items()
        if value not in (None, ())
    }
    for name in ("name", "run_dir", "access_key", "access_key_file"):  # options before the command
        value = session.get(name)
        from_environment = os.environ.get(BY_NAME[name].environment)
        if name not in options and value not in (None, from_environment) and (name, value) != ("name", "default"):
            options[name] = value
    rest = list(words)
    dashes = rest[:1] == [DASHES]
    if dashes:
        rest.pop(0)
    rest = ["--" if word == DASHES else word for word in rest]
    target = rest.pop(0) if rest else None
    if target == DASH_M:
        if not rest:
            raise CommandError("bad_request", "start: -m needs the name of a module", "For example: -m http.server")
        target = f"-m {rest.pop(0)}"
    if rest[:1] == ["--"] and not dashes:  # worker.py -- ARGS: the separator is not an argument
        rest.pop(0)
    if dashes and target is None:
        raise CommandError(
            "bad_request", "start: there is no program after --", "For example: cservice start -- node server.js"
        )
    return Read(options, target, rest, dashes)


def _start(
    session: Session, options: dict[str, Any], target: str | None, args: list[str], *, program: bool, no_wait: bool
) -> int:
    from cluster_service import config, launcher  # after the options were parsed

    from .console import foreground

    directory = os.getcwd()
    found = gather(options, "flags", directory, os.environ)
    name = found["name"].value if "name" in found else BY_NAME["name"].default
    run_dir = found["run_dir"].value if "run_dir" in found else None
    session = session.with_options(name=name, run_dir=run_dir)
    if session.url is not None or ("group" in options and rundir.find(name, run_dir) is not None):
        return _add_group(session, options, target, args, program=program, no_wait=no_wait)
    running = rundir.find(name, run_dir)
    if running is not None:  # any other options are ignored
        return _attach(session, running[1])
    settings = config.settings(options, target=target, args=args, program=program, source="flags", directory=directory)
    for warning in settings.warnings:
        say(f"cservice: warning: {warning}")
    try:
        pid = launcher.start(settings, console=foreground.attach if foreground.wanted(settings) else None)
    except launcher.AlreadyRunning as already:
        return _attach(session, already.holder)
    if session.as_json:
        session.document({"name": name, "pid": pid})
    else:
        out(f"service {name!r} runs (pid {pid})")
        groups = _not_listening(session)
        if groups:
            cure = "set expect_port to wait for a port, or to false"
            say(f"cservice: {', '.join(groups)}: serving (not listening); {cure}")
    return 0


def _not_listening(session: Session) -> list[str]:
    """Return the groups that serve without listening; none where the service does not answer any more."""
    try:
        rows = session.client().glance("/api/v1/workers", GLANCE_SECONDS)["workers"]
    except CommandError:
        return []
    return list(dict.fromkeys(row["group"] for row in rows if row.get("not_listening")))


def _add_group(
    session: Session, options: Mapping[str, Any], target: str | None, args: list[str], *, program: bool, no_wait: bool
) -> int:
    command = COMMANDS.get("start")
    known = {setting.name for setting in SETTINGS if setting.scope == GROUP}
    strangers = [
        name
        for name in options
        if name not in known and name not in ("name", "run_dir", "access_key", "access_key_file")
    ]
    if strangers:
        flag = BY_NAME[strangers[0]].flags[-1].split("/")[0]
        raise CommandError(
            "bad_request", f"{flag} is the service's, which runs already: it cannot be given with a group"
        )
    given: dict[str, Any] = {name: value for name, value in options.items() if name in known}
    if target is None and session.url is None:
        from cluster_service.config.resolve import group_here  # rarely needed

        target, found = group_here(options, os.getcwd(), os.environ)
        program, args = found.pop("program", False), found.pop("args", [])
        given = found
    given |= {"target": target, "args": args or None, "program": program or None, "no_wait": no_wait or None}
    return session.give(command, arguments.check(command, given))


def _attach(session: Session, holder: rundir.Holder) -> int:
    """Run a console of the service that is already running."""
    say(f"cservice: {holder} is already running; nothing was started.")
    if sys.stdin is not None and sys.stdin.isatty():
        say("This is a console of the running one: help lists its commands, quit leaves it.")
    outcome = console.run(session, greeted=True)
    return outcome.code if outcome.given else CommandError("unavailable", "").exit_code
