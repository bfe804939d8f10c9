"""The commands: one definition each, and every door is made from it.

A command is one file in ``commands/`` that defines ``COMMAND``. The command line, ``POST /cli``, ``/api/v1/commands``,
the console and ``help`` are all made from that, and nothing else knows the commands' names. Files are imported when
their command is asked for, so a command costs what it uses. Nothing here, nor in the files, may import anything heavy.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from .errors import CommandError

NAME = re.compile(r"[A-Za-z][\w.-]{0,63}\Z", re.ASCII)

Level = Literal["inproc", "local", "remote", "disabled"]
"""Who may give a command. *local*: the owner's Unix socket, or with ``trust_loopback`` a key from this
machine; *remote*: a key from anywhere;
*inproc*: only the program of the service itself; *disabled*: nobody."""

CLOSED = ("inproc", "disabled")
"""Levels at which no door offers a command: help and completion leave it out."""

Handler = Callable[..., "dict[str, Any] | Awaitable[dict[str, Any]]"]
"""``run(service, **arguments)``: returns a JSON object, or raises CommandError and has changed nothing."""

ARGS = "args"
"""The parameter that what stands after ``--`` on a command line is for."""

BUILT_IN = (
    "start", "restart", "upgrade", "rollback", "cancel", "test", "scale", "reload", "shutdown", "exit", "operations",
    "workers", "health", "info", "events", "logs", "config", "systemd", "ls", "version", "help",
)  # fmt: skip
"""The files in ``commands/``, in the order of help."""


@dataclass(frozen=True)
class Parameter:
    """One argument of a command. *kind* names a function of ``arguments.KINDS``."""

    name: str
    kind: str
    doc: str
    required: bool = False
    positional: bool = False
    """May be given by its place on a command line; always by its name too."""
    choices: tuple[str, ...] = ()
    short: str = ""
    """``-w``."""
    many: bool = False
    """Given by name it may be repeated; its value is a list."""
    metavar: str = ""
    default: str = ""
    """What is taken when it is not given, for help."""
    remote: str = ""
    """What a remote key may give for it: a name of ``roots.CHECKS``. Empty, the default: it may not give it."""

    @property
    def option(self) -> str:
        """How it is given by name on a command line: ``--user-group``."""
        return "--" + self.name.replace("_", "-")

    @property
    def label(self) -> str:
        """How usage lines name it."""
        return self.metavar or ("|".join(self.choices) if self.choices else self.name.upper())

    def describe(self) -> dict[str, Any]:
        """Return the parameter as ``GET /api/v1/commands`` shows it."""
        shown: dict[str, Any] = {"name": self.name, "kind": self.kind, "doc": self.doc, "required": self.required}
        shown |= {"positional": self.positional, "option": self.option, "label": self.label}
        if self.choices:
            shown["choices"] = list(self.choices)
        if self.default:
            shown["default"] = self.default
        if self.many:
            shown["many"] = True
        if self.short:
            shown["short"] = self.short
        return shown


@dataclass(frozen=True)
class Command:
    """One command: its definition and its handler."""

    name: str
    doc: str
    """The first line is the summary; the rest is for ``help NAME``."""
    run: Handler
    parameters: tuple[Parameter, ...] = ()
    access: Level = "local"
    operation: bool = False
    """It starts a long operation and returns it while it runs."""
    succeeds: str = "done"
    """The state in which its operation has gone well."""
    changes: bool = True
    """It changes something: GET will not do, and it is always audited."""
    render: str = "fields"
    """How a person is shown the result: a name of ``render.RENDERINGS``."""
    without_service: bool = False
    """Answered by the command line itself when no service runs."""
    here: Callable[..., dict[str, Any] | None] | None = None
    """What the command line does by itself: ``here(session's options, **arguments)``; None: it asks the service."""
    custom: bool = False
    """It is the service's own, not ours."""
    timeout: float = 0.0
    """Seconds that it may take to answer; 0: it answers at once."""
    remote: bool = False
    """A remote key may give it, where its level or ``--remote-command`` lets it; a custom command: always."""
    workers: bool = False
    """Workers may give it, although it is not one that only reads."""

    def __post_init__(self) -> None:
        """Refuse a definition that no door could offer."""
        if not NAME.match(self.name):
            raise ValueError(
                f"{self.name!r} cannot be the name of a command: a letter, then letters, digits, '.', '-', '_'"
            )

    @property
    def summary(self) -> str:
        """The first line of the documentation."""
        return self.doc.strip().split("\n", 1)[0]

    @property
    def usage(self) -> str:
        """``restart SELECTOR [TIMEOUT]``, ``start TARGET [CWD] [TIMEOUT] [-- ARGS...]``."""
        places = [
            (parameter.label if parameter.required else f"[{parameter.label}]") + ("..." if parameter.many else "")
            for parameter in self.parameters
            if parameter.positional
        ]
        if any(parameter.name == ARGS for parameter in self.parameters):
            places.append("[-- ARGS...]")
        return " ".join([self.name, *places])

    def describe(self) -> dict[str, Any]:
        """Return the command as ``GET /api/v1/commands`` shows it."""
        shown: dict[str, Any] = {
            "name": self.name,
            "usage": self.usage,
            "doc": "\n".join(line.strip() for line in self.doc.strip().splitlines()),
            "access": self.access,
            "operation": self.operation,
            "changes": self.changes,
            "render": self.render,
            "parameters": [parameter.describe() for parameter in self.parameters],
        }
        if self.succeeds != "done":
            shown["succeeds"] = self.succeeds
        if self.custom:
            shown |= {"custom": True, "timeout_s": self.timeout}
        return shown


def alike(one: str, other: str) -> bool:
    """Whether two names are spellings of one: ``greetAll``, ``greet-all`` and ``greet_all``."""
    from cluster_service.config.table import canonical  # noqa: PLC0415 - most names are found as they are

    return canonical(one) == canonical(other)


class Registry:
    """The commands there are: the built-in ones, and those that were added, which may take a built-in's name."""

    def __init__(self) -> None:
        self._added: dict[str, Command] = {}
        self._disabled: set[str] = set()

    def __repr__(self) -> str:
        """``<Registry 11 commands>``."""
        return f"<Registry {len(self.names())} commands>"

    def add(self, command: Command) -> None:
        """Add *command*, instead of the one of that name."""
        for name in [name for name in self._added if alike(name, command.name)]:
            del self._added[name]
        self._added[command.name] = command

    def disable(self, name: str) -> None:
        """Let nobody give the command *name*. Raises CommandError no_such_command."""
        self._disabled.add(self.get(name).name)

    def added(self) -> dict[str, Command]:
        """Return what was added, by name."""
        return dict(self._added)

    def restore(self, added: Mapping[str, Command]) -> None:
        """Forget what was added since ``added`` was asked for."""
        self._added = dict(added)

    def names(self) -> list[str]:
        """Return the commands' names, the built-in ones first."""
        return [*BUILT_IN, *sorted(set(self._added) - set(BUILT_IN))]

    def get(self, name: str) -> Command:
        """Return the command *name*. Raises CommandError no_such_command, with the nearest name."""
        command = self._find(name)
        return replace(command, access="disabled") if command.name in self._disabled else command

    def built_in(self, name: str) -> Command | None:
        """Return our own command *name*, whatever was added in its place."""
        if name not in BUILT_IN:
            return None
        command = importlib.import_module(f".commands.{name}", __package__).COMMAND
        assert isinstance(command, Command)  # noqa: S101 - for the type checker
        return command

    def _find(self, name: str) -> Command:
        if name in self._added:
            return self._added[name]
        command = self.built_in(name)
        if command is not None:
            return command
        for added in self._added.values():
            if alike(added.name, name):
                return added
        raise self._unknown(name)

    def all(self) -> list[Command]:
        """Return every command, in the order of ``names``."""
        return [self.get(name) for name in self.names()]

    def _unknown(self, name: str) -> CommandError:
        from cluster_service.config.values import suggestion  # noqa: PLC0415 - only on the way to an error

        if not NAME.match(name):
            return CommandError(
                "no_such_command", f"{name[:80]!r} is not the name of a command", "help lists the commands."
            )
        near = suggestion(name.lower(), self.names())
        return CommandError("no_such_command", f"there is no command {name!r}{near}", "help lists the commands.")


COMMANDS = Registry()
"""The commands of this process."""
