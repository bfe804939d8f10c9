"""Completion of a command line and one-line help, for the console and for shells.

    complete(words, current, offers) -> Choices      *words*: the words before; *current*: the beginning of the next
    usage(words, current, commands) -> str           one line of help on the word being typed
    split(line) -> (words, current)                  an unfinished line, in which a quotation may be open

Choices come from the definitions of the commands. ``Asked`` requests workers, groups and operations from the service
and caches the answer for a short time. If the service does not answer, only those choices are missing.
"""

from __future__ import annotations

import re
import threading
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from cluster_service.commands.arguments import comes_first
from cluster_service.commands.registry import CLOSED, COMMANDS, Command, Parameter
from cluster_service.config.settings_table import canonical
from cluster_service.errors import CommandError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from cluster_service.client.client import Client

    Rows = Sequence[Mapping[str, Any]]

QUICK = 2.0
"""Timeout for an answer of the service, in seconds; the user waits for it after pressing Tab."""
FRESH = 2.0
"""Seconds for which an answer is cached."""
_NUMBER = re.compile(r"-\d+\Z", re.ASCII)


@dataclass(frozen=True)
class Choice:
    """One possible word."""

    text: str
    doc: str = ""


@dataclass(frozen=True)
class Choices:
    """The words that begin with the current text, and whether file names are possible too."""

    found: tuple[Choice, ...] = ()
    files: str = ""
    """``files``, ``directories`` or empty."""


class Offers(Protocol):
    """The source of the choices."""

    def commands(self) -> Sequence[Command]:
        """Return the commands that may be given."""

    def workers(self) -> Rows:
        """Return the workers, as in ``workers --json``."""

    def operations(self) -> Rows:
        """Return the operations, newest first."""


class Asked:
    """Choices from a running service, cached for a short time. Thread-safe."""

    def __init__(self, client: Callable[[], Client], clock: Callable[[], float] = time.monotonic) -> None:
        """Set up the cache. *client*: finds the service, or raises CommandError; *clock*: monotonic seconds."""
        self._client = client
        self._clock = clock
        self._lock = threading.Lock()
        self._known: dict[str, tuple[float, Rows]] = {}
        self._commands: Sequence[Command] | None = None

    def commands(self) -> Sequence[Command]:
        """Return the commands of the service, or the built-in ones if it does not answer."""
        from cluster_service.client import service_commands  # only needed with a service

        rows = self._rows("commands")
        if rows:
            commands = [service_commands.command_from(row) for row in rows]
            self._commands = [command for command in commands if command.access not in CLOSED]
        return self.known()

    def known(self) -> Sequence[Command]:
        """Return the commands known so far, without a request."""
        if self._commands is None:
            self._commands = COMMANDS.all()
        return self._commands

    def workers(self) -> Rows:
        """Return the workers; empty if the service does not answer."""
        return self._rows("workers")

    def operations(self) -> Rows:
        """Return the operations; empty if the service does not answer."""
        return self._rows("operations")

    def _rows(self, what: str) -> Rows:
        with self._lock:
            at, rows = self._known.get(what, (0.0, None))
            if rows is None or self._clock() - at > FRESH:
                try:
                    rows = self._client().glance(f"/api/v1/{what}", QUICK)[what]
                except (CommandError, KeyError):
                    return ()  # the service may be starting
                self._known[what] = self._clock(), rows
            return rows


# -- the position of a word --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """The position of the next word of a command."""

    given: frozenset[str] = frozenset()
    """The names of the arguments before it."""
    value_of: Parameter | None = None
    """The option whose value the word is."""
    positional: Parameter | None = None
    """The positional argument that the word is, unless it is an option or ``name:value``."""
    dashes: bool = False
    """The word stands after ``--``."""


def place(command: Command, words: Sequence[str]) -> Place:
    """Return the position of the word after *words* (without the name of the command)."""
    by_name = {parameter.name: parameter for parameter in command.parameters}
    places = [parameter for parameter in command.parameters if parameter.positional]
    given: set[str] = set()
    value_of: Parameter | None = None
    dashes = False
    for word in words:
        missing = [each for each in places if each.name not in given]
        if value_of is not None:
            value_of = None
        elif dashes or word == "--":
            dashes = True
        elif word.startswith("-") and word != "-" and not _NUMBER.match(word):
            flag, equals, _ = word.partition("=")
            option = option_of(command, flag)
            if option is not None:
                given.add(option.name)
                value_of = option if option.kind != "flag" and not equals else None
        elif _is_named(word, by_name, missing):
            given.add(canonical(word.partition(":")[0]))
        elif missing:
            given.add(missing[0].name)
    missing = [each for each in places if each.name not in given]
    last = places[-1] if places and places[-1].many else None
    return Place(frozenset(given), value_of, missing[0] if missing else last, dashes)


def option_of(command: Command, flag: str) -> Parameter | None:
    """Return the parameter named by *flag*, in any spelling."""
    wanted = "--" + canonical(flag[2:]).replace("_", "-") if flag.startswith("--") else flag
    for parameter in command.parameters:
        if wanted in (parameter.option, parameter.short) and wanted:
            return parameter
    return None


def _is_named(word: str, by_name: Mapping[str, Parameter], missing: Sequence[Parameter]) -> bool:
    name, colon, value = word.partition(":")
    return bool(colon) and canonical(name) in by_name and not any(comes_first(each, value) for each in missing)


# -- choices -----------------------------------------------------------------------------------------------------------


def complete(words: Sequence[str], current: str, offers: Offers) -> Choices:
    """Return the choices for the word that begins with *current* and follows *words*."""
    if not words:
        return starting(current, [Choice(command.name, command.summary) for command in offers.commands()])
    command = find(offers.commands(), words[0])
    return Choices() if command is None else of_command(command, words[1:], current, offers)


def find(commands: Sequence[Command], name: str) -> Command | None:
    """Return the command of that name, or None."""
    return next((command for command in commands if command.name == name), None)


def of_command(command: Command, words: Sequence[str], current: str, offers: Offers) -> Choices:
    """Return the choices that may follow *words*, the arguments of *command* so far."""
    here = place(command, words)
    if here.value_of is not None:
        return value(command, here.value_of, current, offers)
    if here.dashes:
        return Choices(files="files")
    if current.startswith("-"):
        return _options(command, here, current, offers)
    name, colon, begun = current.partition(":")
    named = next((each for each in command.parameters if each.name == canonical(name)), None)
    if colon and named is not None and named is not here.positional:
        return _behind(name + ":", value(command, named, begun, offers))
    if here.positional is None:
        return _options(command, here, current, offers) if not current else Choices()
    return value(command, here.positional, current, offers)


def _options(command: Command, here: Place, current: str, offers: Offers) -> Choices:
    flag, equals, begun = current.partition("=")
    if equals:
        option = option_of(command, flag)
        return Choices() if option is None else _behind(flag + "=", value(command, option, begun, offers))
    open_ones = [each for each in command.parameters if each.many or each.name not in here.given]
    return starting(current, [Choice(each.option, each.doc) for each in open_ones])


def _behind(before: str, choices: Choices) -> Choices:
    """Return *choices* with *before* prepended to each."""
    return replace(choices, found=tuple(Choice(before + each.text, each.doc) for each in choices.found))


def value(command: Command, parameter: Parameter, current: str, offers: Offers) -> Choices:
    """Return the values of *parameter* that begin with *current*."""
    source = NAMED.get((command.name, parameter.name)) or KINDS.get(parameter.kind)
    if parameter.choices:
        return starting(current, [Choice(choice) for choice in parameter.choices])
    if parameter.kind in FILES:
        return Choices(files=FILES[parameter.kind])
    return starting(current, source(offers, current)) if source is not None else Choices()


def starting(current: str, choices: Sequence[Choice]) -> Choices:
    """Return the *choices* that begin with *current*."""
    return Choices(tuple(choice for choice in choices if choice.text.startswith(current)))


def _groups(offers: Offers, _current: str = "") -> list[Choice]:
    rows = offers.workers()
    counts = {str(row["group"]): 0 for row in rows}
    for row in rows:
        counts[str(row["group"])] += 1
    return [Choice(group, f"{count} worker{'' if count == 1 else 's'}") for group, count in counts.items()]


def _selectors(offers: Offers, current: str) -> list[Choice]:
    """Return ``all``, the groups and their slots; only pids if *current* begins with a digit, as there may be many."""
    rows = offers.workers()
    if current[:1].isdigit():
        alive = [row for row in rows if row.get("pid")]
        return [Choice(str(row["pid"]), f"{row['group']}.{row['slot']} {row['state']}") for row in alive]
    slots = [
        Choice(f"{row['group']}.{row['slot']}", f"{row['state']}" + (f" (pid {row['pid']})" if row.get("pid") else ""))
        for row in rows
    ]
    return [Choice("all", "every worker"), *_groups(offers), *slots]


def _operations(offers: Offers, _current: str) -> list[Choice]:
    return [Choice(str(row["id"]), f"{row['command']}: {row['state']}") for row in offers.operations()]


def _running(offers: Offers, _current: str) -> list[Choice]:
    return [Choice(str(row["id"]), str(row["command"])) for row in offers.operations() if row["state"] == "running"]


def _commands(offers: Offers, _current: str) -> list[Choice]:
    return [Choice(command.name, command.summary) for command in offers.commands()]


NAMED: dict[tuple[str, str], Callable[[Offers, str], list[Choice]]] = {
    ("scale", "group"): _groups,
    ("rollback", "selector"): lambda offers, _current: [Choice("all", "every group"), *_groups(offers)],
    ("operations", "operation"): _operations,
    ("cancel", "operation"): _running,
    ("help", "command"): _commands,
}
"""(Command, argument) -> its choices, where they are narrower than those of the kind."""
KINDS: dict[str, Callable[[Offers, str], list[Choice]]] = {
    "selector": _selectors,
    "flag": lambda _offers, _current: [Choice("true"), Choice("false")],
}
"""Kind of a parameter -> its choices."""
FILES = {"target": "files", "file": "files", "executable": "files", "caller": "directories"}
"""Kinds whose choices are names of files or directories."""


# -- help --------------------------------------------------------------------------------------------------------------


def usage(words: Sequence[str], current: str, commands: Sequence[Command]) -> str:
    """Return one line of help: the usage of the command and the argument being typed. Empty if there is none."""
    if not words:
        command = find(commands, current)
        if command is not None:
            return f"{command.usage}: {command.summary}"
        near = [each.name for each in commands if current and each.name.startswith(current)]
        return "  ".join(near)
    command = find(commands, words[0])
    if command is None:
        return ""
    here = place(command, words[1:])
    now = here.value_of
    if now is None and current.startswith("-"):
        now = option_of(command, current.partition("=")[0])
    elif now is None and not here.dashes:
        now = here.positional
    if now is None:
        return f"{command.usage}: {command.summary}"
    name = now.label if now.positional and here.value_of is None else now.option
    return f"{command.usage}   {name}: {now.doc}" + (f" (without it: {now.default})" if now.default else "")


# -- unfinished lines --------------------------------------------------------------------------------------------------


def split(line: str) -> tuple[list[str], str]:
    """Split an unfinished line like a shell; return its complete words and the last one, which is still being typed.

    A quotation may be open; its content so far counts.
    """
    words: list[str] = []
    current, begun, quote, escaped = "", False, "", False
    for char in line:
        if escaped:
            current, escaped = current + char, False
        elif char == "\\" and quote != "'":
            escaped = begun = True
        elif quote:
            quote, current = ("", current) if char == quote else (quote, current + char)
        elif char in "'\"":
            quote, begun = char, True
        elif char.isspace():
            if begun:
                words.append(current)
            current, begun = "", False
        else:
            current, begun = current + char, True
    return words, current
