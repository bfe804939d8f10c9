"""Options of the command line that every command has, and the commands that need no service."""

from __future__ import annotations

import os
from typing import Any

import click

from cluster_service.commands.registry import Command, Parameter
from cluster_service.errors import CommandError

from .session import Session

GLOBAL_NAMES = ("name", "url", "access_key", "access_key_file", "ca_file", "client_cert", "run_dir", "as_json")
START_SUMMARY = "Start a program as a service, or add a group of workers to the one that runs."
LOCAL_SUMMARIES = {
    "completion": "Print the script that completes cservice in a shell: bash, zsh or fish.",
    "man": "Show the manual page.",
}
"""Commands that need no service."""

SHELLS = ("bash", "zsh", "fish")


def _nothing() -> dict[str, Any]:
    return {}


LOCAL_COMMANDS = (
    Command(
        "completion",
        "Print the script that completes cservice in a shell: source <(cservice completion bash).",
        _nothing,
        (Parameter("shell", "choice", "the shell", required=True, positional=True, choices=SHELLS),),
        changes=False,
    ),
    Command("man", "Show the manual page of cservice; where it is not a terminal: print it.", _nothing, changes=False),
)
"""The definitions of these commands, which exist on the command line only."""


def global_options(*, hidden: bool = False) -> list[click.Parameter]:
    """Return the options that select the service. *hidden*: leave them out of a command's help."""
    options: list[tuple[list[str], dict[str, Any]]] = [
        (["--name", "name"], {"metavar": "NAME", "help": "Name of the service (default: default)."}),
        (["--url", "url"], {"metavar": "URL", "help": "A service elsewhere: https://host:port, http://…, unix:/path."}),
        (["--access-key", "access_key"], {"metavar": "KEY", "help": "Access key (also CSERVICE_ACCESS_KEY)."}),
        (["--access-key-file", "access_key_file"], {"metavar": "FILE", "help": "File that holds the access key."}),
        (["--ca-file", "ca_file"], {"metavar": "FILE", "help": "Trust an https service by this authority (PEM)."}),
        (["--client-cert", "client_cert"], {"metavar": "FILE", "help": "Our certificate and key (PEM), for https."}),
        (["--run-dir", "run_dir"], {"metavar": "DIR", "help": "Private directory of the control socket."}),
        (["--json", "as_json"], {"is_flag": True, "help": "Print one JSON document and nothing else."}),
    ]
    return [click.Option(names, hidden=hidden, **more) for names, more in options]


def from_environment() -> Session:
    """Return the session selected by environment variables."""
    return Session().with_options(
        name=os.environ.get("CSERVICE_NAME"),
        url=os.environ.get("CSERVICE_URL"),
        access_key=os.environ.get("CSERVICE_ACCESS_KEY"),
        ca_file=os.environ.get("CSERVICE_CA_FILE"),
        client_cert=os.environ.get("CSERVICE_CLIENT_CERT"),
        access_key_file=os.environ.get("CSERVICE_ACCESS_KEY_FILE")
        if not os.environ.get("CSERVICE_ACCESS_KEY")
        else None,
    )


def session_of(context: click.Context, options: dict[str, Any]) -> Session:
    """Return the session selected by the options before the command and, with precedence, those after it."""
    base = context.find_object(Session)
    assert base is not None  # created by the group
    return base.with_options(**{name: options.get(name) for name in GLOBAL_NAMES})


def usage_error(error: click.UsageError) -> CommandError:
    """Convert an error of click to a CommandError in the style of our other messages."""
    context = error.ctx
    path = context.command_path if context is not None else "cservice"
    hint = f"{path} --help tells more."
    where = f"{context.info_name}: " if context is not None and context.parent is not None else ""
    if isinstance(error, click.NoSuchOption):
        from cluster_service.config import foreign_settings  # only needed for an error

        known = [
            name
            for parameter in (context.command.get_params(context) if context else ())
            for name in (*parameter.opts, *parameter.secondary_opts)
            if name.startswith("-")
        ]
        return CommandError(
            "bad_request",
            f"{where}unknown option {error.option_name}{foreign_settings.suggestion(error.option_name, known)}",
            foreign_settings.sentence(error.option_name) or hint,
        )
    message = error.format_message().rstrip(".")
    return CommandError("bad_request", where + message[:1].lower() + message[1:], hint)
