"""The registry of commands, from which all interfaces are generated.

A command is one module in ``commands/`` that defines ``COMMAND``. The command line, ``POST /cli``,
``/api/v1/commands``, the console and ``help`` use only that definition; no other code lists the commands. A module is
imported when its command is first used. Neither this module nor the commands may import anything heavy.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from cluster_service.errors import CommandError

NAME = re.compile(r"[A-Za-z][\w.-]{0,63}\Z", re.ASCII)

Level = Literal["inproc", "local", "remote", "disabled"]
"""Who may give a command.

*local*: the owner's Unix socket, or with ``trust_loopback`` a key from this machine; *remote*: a key from anywhere;
*inproc*: only the program of the service itself; *disabled*: no client.
"""

CLOSED = ("inproc", "disabled")
"""Levels that no endpoint offers; help and completion omit these commands."""

RENDERINGS = frozenset((
    "workers", "health", "fields", "operation", "operations", "events", "logs", "reload", "config", "ls", "systemd",
    "version", "help", "custom", "exiting",
))  # fmt: skip
"""Names of the text forms of results, which ``cli.rendering`` implements."""

Handler = Callable[..., "dict[str, Any] | Awaitable[dict[str, Any]]"]
"""``run(service, **arguments)`` returns a JSON object, or raises CommandError without having changed anything."""

ARGS = "args"
"""The parameter that takes the words after ``--`` on a command line."""

BUILT_IN = (
    "start", "restart", "upgrade", "rollback", "cancel", "test", "scale", "reload", "shutdown", "exit", "operations",
    "workers", "health", "info", "events", "logs", "config", "systemd", "ls", "version", "help",
)  # fmt: skip
"""The modules in ``commands/``, in the order of help."""


@dataclass(frozen=True)
class Parameter:
    """One argument of a command. *kind* names a function of ``arguments.KINDS``."""

    name: str
    kind: str
    doc: str
    required: bool = False
    positional: bool = False
    """May be given by position on a command line, as well as by name."""
    choices: tuple[str, ...] = ()
    short: str = ""
    """``-w``."""
    many: bool = False
    """May be repeated when given by name; the value is a list."""
    metavar: str = ""
    default: str = ""
    """The default as shown in help."""
    remote: str = ""
    """The check for values from a remote key: a name in ``allowed_paths.CHECKS``. Empty (the default): not allowed."""

    @property
    def option(self) -> str:
        """The name of its option on a command line: ``--user-group``."""
        return "--" + self.name.replace("_", "-")

    @property
    def label(self) -> str:
        """Its name in usage lines."""
        return self.metavar or ("|".join(self.choices) if self.choices else self.name.upper())

    def describe(self) -> dict[str, Any]:
        """Return the parameter as in ``GET /api/v1/commands``."""
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
    """A command: its definition and its handler."""

    name: str
    doc: str
    """The first line is the summary; the rest is shown by ``help NAME``."""
    run: Handler
    parameters: tuple[Parameter, ...] = ()
    access: Level = "local"
    operation: bool = False
    """Starts an operation and returns it while it runs."""
    succeeds: str = "done"
    """The state of a successful operation."""
    changes: bool = True
    """Changes something; every use is logged, also a GET."""
    render: str = "fields"
    """The text form of the result: one of ``RENDERINGS``."""
    without_service: bool = False
    """Answered by the command line itself if no service runs."""
    here: Callable[..., dict[str, Any] | None] | None = None
    """Run by the command line itself: ``here(session's options, **arguments)``; if it returns None, by the service."""
    custom: bool = False
    """Defined by the user's program."""
    timeout: float = 0.0
    """Seconds that the handler may take; 0: it returns immediately."""
    remote: bool = False
    """A remote key may give it, if its level or ``--remote-command`` allows that. Custom commands always may be."""
    workers: bool = False
    """Workers may give it, even if it changes something."""

    def __post_init__(self) -> None:
        """Raise ValueError if the name is not valid for a command."""
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
        """The usage line: ``restart SELECTOR [TIMEOUT]``, ``start TARGET [CWD] [TIMEOUT] [-- ARGS...]``."""
        places = [
            (parameter.label if parameter.required else f"[{parameter.label}]") + ("..." if parameter.many else "")
            for parameter in self.parameters
            if parameter.positional
        ]
        if any(parameter.name == ARGS for parameter in self.parameters):
            places.append("[-- ARGS...]")
        return " ".join([self.name, *places])

    def describe(self) -> dict[str, Any]:
        """Return the command as in ``GET /api/v1/commands``."""
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
    """Return True if two names differ only in spelling: ``greetAll``, ``greet-all`` and ``greet_all``."""
    from cluster_service.config.settings_table import canonical  # most names match exactly

    return canonical(one) == canonical(other)


class Registry:
    """The built-in commands and the added ones, which may override a built-in."""

    def __init__(self) -> None:
        self._added: dict[str, Command] = {}
        self._disabled: set[str] = set()

    def __repr__(self) -> str:
        """Return ``<Registry 11 commands>``."""
        return f"<Registry {len(self.names())} commands>"

    def add(self, command: Command) -> None:
        """Add *command*, replacing one of the same name."""
        for name in [name for name in self._added if alike(name, command.name)]:
            del self._added[name]
        self._added[command.name] = command

    def disable(self, name: str) -> None:
        """Disable the command *name* for all clients. Raises CommandError no_such_command."""
        self._disabled.add(self.get(name).name)

    def added(self) -> dict[str, Command]:
        """Return the added commands, by name."""
        return dict(self._added)

    def restore(self, added: Mapping[str, Command]) -> None:
        """Restore the commands that ``added`` returned earlier."""
        self._added = dict(added)

    def names(self) -> list[str]:
        """Return the names of the commands, the built-in ones first."""
        return [*BUILT_IN, *sorted(set(self._added) - set(BUILT_IN))]

    def get(self, name: str) -> Command:
        """Return the command *name*. Raises CommandError no_such_command, with the closest name."""
        command = self._find(name)
        return replace(command, access="disabled") if command.name in self._disabled else command

    def built_in(self, name: str) -> Command | None:
        """Return the built-in command *name*, even if it is overridden, or None."""
        if name not in BUILT_IN:
            return None
        command = importlib.import_module(f".{name}", __package__).COMMAND
        assert isinstance(command, Command)
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
        from cluster_service.config.setting_values import suggestion  # only needed for an error

        if not NAME.match(name):
            return CommandError(
                "no_such_command", f"{name[:80]!r} is not the name of a command", "help lists the commands."
            )
        near = suggestion(name.lower(), self.names())
        return CommandError("no_such_command", f"there is no command {name!r}{near}", "help lists the commands.")


COMMANDS = Registry()
"""The commands of this process."""
