"""Precedence of settings: flags (or keywords) over environment over files.

In a file, ``[groups.NAME]`` contains the settings of that group. Group settings outside of it apply to every group that
does not override them. Every error names the origin of the value: ``--workers``, ``CSERVICE_WORKERS`` or
``workers in FILE:3``; all mistakes are reported at once.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from cluster_service.errors import CommandError
from cluster_service.rundir import check_name

from . import config_files
from .parsers import convert
from .settings_table import (
    ALIASES,
    BY_NAME,
    GROUP,
    INTERNAL,
    SETTINGS,
    WORKER_IDENTITY,
    Setting,
    canonical,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

Source = Literal["flags", "keywords", "environment", "file"]
GROUPS = "groups"
"""The table in a file that contains one table per group."""
_RANK = ("file", "environment", "keywords", "flags")


@dataclass(frozen=True)
class Given:
    """A parsed value and its origin. *base*: the absolute directory to which its paths are relative."""

    value: Any
    origin: str
    base: str
    source: Source
    own: bool = False
    """Set in the table of one group."""

    @property
    def rank(self) -> int:
        """Precedence; higher values win."""
        return _RANK.index(self.source) * 2 + self.own


class Problems:
    """Mistakes collected so far, to be reported together."""

    def __init__(self) -> None:
        self.found: list[CommandError] = []

    def add(self, message: str, hint: str) -> None:
        """Add a mistake."""
        self.found.append(CommandError("bad_request", message, hint))

    @contextmanager
    def catching(self, origin: str = "") -> Iterator[None]:
        """Collect a bad_request raised in the block, prefixed with *origin* unless its message contains it."""
        try:
            with led(origin):
                yield
        except CommandError as error:
            if error.code != "bad_request":
                raise
            self.found.append(error)

    def settle(self) -> None:
        """Raise CommandError bad_request if there were mistakes."""
        if len(self.found) == 1:
            raise self.found[0]
        if self.found:
            told = [f"{error.message}{f' ({error.hint})' if error.hint else ''}" for error in self.found]
            raise CommandError("bad_request", "\n".join([f"{len(told)} mistakes in the configuration:", *told]))


@contextmanager
def led(origin: str) -> Iterator[None]:
    """Prefix a CommandError raised in the block with *origin*, unless its message contains it."""
    try:
        yield
    except CommandError as error:
        if not origin or origin in error.message:
            raise
        raise CommandError(error.code, f"{origin}: {error.message}", error.hint) from None


@dataclass(frozen=True)
class Collected:
    """All settings given.

    *whole*: those of the service and of every group; *groups*: those of each group named in a file, merged with the
    settings for every group.
    """

    whole: dict[str, Given]
    groups: dict[str, dict[str, Given]] = field(default_factory=dict)
    path: str | None = None
    """The file that was read."""
    named: dict[str, str] = field(default_factory=dict)
    """The position of each group: ``[groups.web] in FILE:3``."""


def gather(options: Mapping[str, Any], source: Source, directory: str, environ: Mapping[str, str]) -> dict[str, Given]:
    """Return the settings given for the service and every group, by name. Raises CommandError bad_request."""
    return collect(options, source, directory, environ).whole


def collect(
    options: Mapping[str, Any],
    source: Source,
    directory: str,
    environ: Mapping[str, str],
    problems: Problems | None = None,
) -> Collected:
    """Return all settings given. Raises CommandError bad_request, unless *problems* collects the mistakes."""
    mistakes = problems or Problems()
    strongest = read(options, source, directory, problems=mistakes)
    environment = from_environment(environ, directory, mistakes)
    path = strongest.get("config") or environment.get("config")
    file: config_files.File | None = None
    with mistakes.catching():
        file = config_files.read(path.value, path.origin) if path else config_files.beside(directory)
    outside, groups, named = _from_file(file, mistakes) if file is not None else ({}, {}, {})
    if problems is None:
        mistakes.settle()
    above = _over(environment, strongest)
    return Collected(
        _over(outside, above),
        {name: _over(_over(outside, own), above) for name, own in groups.items()},
        file.path if file is not None else None,
        named,
    )


def _over(below: Mapping[str, Given], above: Mapping[str, Given]) -> dict[str, Given]:
    """Return both merged, with *above* taking precedence; variables and limits are merged one by one."""
    found = {**below, **above}
    for name, key in _ADDED_UP.items():
        if name in below and name in above:
            both = {key(item): item for item in (*below[name].value, *above[name].value)}
            found[name] = replace(above[name], value=tuple(both.values()))
    return found


_ADDED_UP: dict[str, Callable[[Any], str]] = {
    "env": lambda pair: str(pair[0]),
    "limits": lambda limit: str(limit).partition("=")[0],
}
"""Settings that are merged item by item -> the function that returns the key of an item."""


def _from_file(
    file: config_files.File, problems: Problems
) -> tuple[dict[str, Given], dict[str, dict[str, Given]], dict[str, str]]:
    table = dict(file.table)
    tables: Any = table.pop(GROUPS, {})
    outside = read(table, "file", file.base, file=file, problems=problems)
    groups: dict[str, dict[str, Given]] = {}
    named: dict[str, str] = {}
    if not isinstance(tables, dict):
        problems.add(
            f"{GROUPS} in {file.place((GROUPS,))} is no table of groups", "Write a table for each: [groups.web]."
        )
        return outside, groups, named
    for name, own in tables.items():
        where = file.place((GROUPS, name))
        named[name] = f"[{GROUPS}.{name}] in {where}"
        with problems.catching():
            if not isinstance(own, dict):
                raise CommandError(
                    "bad_request",
                    f"{GROUPS}.{name} in {where} is no table of settings",
                    f"Write [groups.{name}] and, below it, target = … and workers = …"
                    if canonical(name) not in ALIASES
                    else f"[groups] holds one table for each group; {name} stands above it, or in [groups.web].",
                )
            _group_name(name, named[name])
            found = read(own, "file", file.base, scope=GROUP, file=file, inside=(GROUPS, name), problems=problems)
            groups[name] = {key: replace(value, own=True) for key, value in found.items()}
    if groups and "group" in outside:
        problems.add(
            f"{outside['group'].origin}: the groups are named by their tables, {_tables(groups)}", "Remove it."
        )
    return outside, groups, named


def _group_name(name: str, where: str) -> None:
    try:
        check_name(name)
    except CommandError as error:
        raise CommandError(error.code, f"{where}: {error.message}", error.hint) from None
    if name == "all":
        raise CommandError(
            "bad_request", f"{where}: a group cannot be called 'all': that means every group", "Call it web, or jobs."
        )


def _tables(groups: Mapping[str, Any]) -> str:
    return ", ".join(f"[{GROUPS}.{name}]" for name in groups)


def read(
    options: Mapping[str, Any],
    source: Source,
    base: str,
    *,
    scope: str | None = None,
    file: config_files.File | None = None,
    inside: config_files.Keys = (),
    problems: Problems | None = None,
) -> dict[str, Given]:
    """Return *options*, with names in any spelling, as parsed values. None means: not given.

    *file*: the file that contains them, *inside* these tables; *scope*: accept only settings of this scope. Raises
    CommandError bad_request, unless *problems* collects the mistakes.
    """
    allowed = {
        alias: name
        for alias, name in ALIASES.items()
        if (scope is None or BY_NAME[name].scope == scope)
        and (source != "file" or "file" in BY_NAME[name].sources)
        and not (inside and name == "group")
    }
    mistakes = problems or Problems()
    given: dict[str, Given] = {}
    for spelling, raw in options.items():
        if raw is None:
            continue
        alias = canonical(spelling)
        if alias == "workers" and source == "file" and isinstance(raw, str) and _is_target(raw):
            alias = "target"  # the name in the original's format
        name = allowed.get(alias)
        place = f"{'.'.join((*inside, spelling))} in {file.place((*inside, spelling))}" if file else spelling
        with mistakes.catching():
            if name is None:
                raise _unknown(spelling, alias, allowed, file, inside, is_table=isinstance(raw, dict))
            setting = BY_NAME[name]
            origin = _flag_of(setting) if source == "flags" else place
            if name in given:
                raise CommandError(
                    "bad_request", f"{origin}: given twice, also as {given[name].origin}", "Keep one of them."
                )
            value = convert(setting, raw, base, origin, "ms" if alias.endswith("_ms") else "s")
            given[name] = Given(value, origin, base, source)
    if problems is None:
        mistakes.settle()
    return given


def _unknown(
    spelling: str,
    alias: str,
    allowed: Mapping[str, str],
    file: config_files.File | None,
    inside: config_files.Keys,
    *,
    is_table: bool,
) -> CommandError:
    where = f" in {file.place((*inside, spelling))}" if file else ""
    whole = BY_NAME.get(ALIASES.get(alias, ""))
    shown = ".".join((*inside, spelling))
    if inside and whole is not None:
        what = "a group has the name of its table" if whole.name == "group" else "it is the service's as a whole"
        return CommandError(
            "bad_request",
            f"{shown!r}{where} cannot be given for a group: {what}",
            "Put it above the first table." if whole.name != "group" else "Remove it.",
        )
    if file is not None and whole is not None:
        return CommandError(
            "bad_request",
            f"{shown!r}{where} cannot be given in a file",
            f"Give it where the service is started: {_flag_of(whole)}.",
        )
    from . import foreign_settings  # only needed for an error

    known = [*allowed, GROUPS] if file is not None and not inside else list(allowed)
    hint = "cservice start --help lists the settings."
    if is_table and not inside:
        hint = f"Here settings stand outside of tables, but for [env] and a group's: [{GROUPS}.web]."
    return CommandError(
        "bad_request",
        f"there is no setting {spelling!r}{where}{foreign_settings.suggestion(alias, known)}",
        foreign_settings.sentence(alias) or hint,
    )


def _is_target(text: str) -> bool:
    return text.endswith(".py") or "/" in text or ":" in text


def _flag_of(setting: Setting) -> str:
    return setting.flags[-1].split("/")[0] if setting.flags else setting.name.upper()


def from_environment(environ: Mapping[str, str], directory: str, problems: Problems | None = None) -> dict[str, Given]:
    """Return the settings in ``CSERVICE_…`` variables; empty ones are ignored. Raises like ``read``."""
    known = {setting.environment: setting for setting in SETTINGS if "environment" in setting.sources}
    inside = "CSERVICE_SLOT" in environ
    mistakes = problems or Problems()
    given: dict[str, Given] = {}
    for variable in sorted(environ):
        if not variable.startswith("CSERVICE_") or variable in INTERNAL or not environ[variable]:
            continue
        if inside and variable in WORKER_IDENTITY:
            continue
        setting = known.get(variable)
        with mistakes.catching():
            if setting is None:
                from . import foreign_settings  # only needed for an error

                names = {each.name: name for name, each in known.items()}
                near = names.get(foreign_settings.meant(variable.removeprefix("CSERVICE_").lower(), names) or "")
                raise CommandError(
                    "bad_request",
                    f"the environment variable {variable} is no setting{f': did you mean {near!r}?' if near else ''}",
                    f"Unset it: names that start with CSERVICE_ are the service's own. (env -u {variable} …)",
                )
            value = convert(setting, environ[variable], directory, variable)
            given[setting.name] = Given(value, variable, directory, "environment")
    if problems is None:
        mistakes.settle()
    return given
