"""Configuration files: the settings by name, and the line of each.

    beside(directory) -> File | None        cluster-service.toml, or else [tool.cluster-service] of pyproject.toml
    read(path, origin="") -> File           TOML, or JSON in the format of the original

``tomllib`` and ``json`` report no line numbers, so a simple scan of the text finds them. If it misses a line, an error
message lacks the line number, but still has the name.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cluster_service.errors import CommandError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

OWN = "cluster-service.toml"
PROJECT = "pyproject.toml"
TABLES = (("tool", "cluster-service"), ("tool", "cluster_service"))
"""Possible tables of the settings in ``pyproject.toml``."""
LONGEST = 1 << 20
"""Maximum size of a file, in bytes."""

Keys = tuple[str, ...]

_KEY = r"""[\w-]+|"(?:[^"\\]|\\.)*"|'[^']*'"""
_TOML_KEY = re.compile(rf"\s*((?:{_KEY})(?:\s*\.\s*(?:{_KEY}))*)\s*=")
_TOML_TABLE = re.compile(rf"\s*\[\[?\s*((?:{_KEY})(?:\s*\.\s*(?:{_KEY}))*)\s*\]")
_JSON_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\]:,\n]')
_MULTILINE = re.compile(r'"""|\'\'\'')


@dataclass(frozen=True)
class File:
    """A configuration file. *table*: its settings, found *inside* these tables. Paths are relative to *base*."""

    path: str
    table: Mapping[str, Any]
    inside: Keys = ()
    lines: Mapping[Keys, int] = field(default_factory=dict)

    @property
    def base(self) -> str:
        """The directory of the file."""
        return os.path.dirname(self.path)

    def place(self, keys: Keys) -> str:
        """Return the position of the setting: ``/srv/cluster-service.toml:3``."""
        line = self.lines.get((*self.inside, *keys))
        table = f" [{'.'.join(self.inside)}]" if self.inside in TABLES else ""
        return f"{self.path}{'' if line is None else f':{line}'}{table}"


def beside(directory: str) -> File | None:
    """Return the configuration file of *directory*, or None. Raises CommandError bad_request."""
    own = os.path.join(directory, OWN)
    if os.path.isfile(own):
        return read(own)
    project = os.path.join(directory, PROJECT)
    return _read(project) if os.path.isfile(project) else None


def read(path: str, origin: str = "") -> File:
    """Return the file. *origin*: the setting that named it, for errors. Raises CommandError bad_request."""
    found = _read(path, origin)
    if found is None:
        raise CommandError(
            "bad_request", f"{path} has no table [tool.cluster-service]", "Add it, or name another file."
        )
    return found


def _read(path: str, origin: str = "") -> File | None:
    """Return the file; None for a ``pyproject.toml`` without our table."""
    prefix = f"{origin}: " if origin else ""
    text = _text(path, prefix)
    is_json = path.endswith(".json") or (text.lstrip().startswith("{") and not path.endswith(".toml"))
    data = _json(text, path) if is_json else _toml(text, path)
    lines = _json_lines(text) if is_json else _toml_lines(text)
    inside: Keys = ()
    if os.path.basename(path) == PROJECT:
        ours = next((keys for keys in TABLES if _at(data, keys) is not None), None)
        if ours is None:
            return None
        inside = ours
    elif "cluster" in data:
        inside = ("cluster",)
        _refuse_beside(data, File(path, data, (), lines))
    table = _at(data, inside)
    if not isinstance(table, dict):
        where = File(path, {}, inside, lines).place(())
        raise CommandError(
            "bad_request",
            f"{where} holds no table of settings",
            'Write {"cluster": {"workerCount": 4}}.'
            if is_json
            else f"Write [{'.'.join(inside)}] and, below it, workers = 4.",
        )
    return File(path, table, inside, lines)


def _at(data: Any, keys: Keys) -> Any:
    """Return the value inside these nested tables, or None."""
    for key in keys:
        data = data.get(key) if isinstance(data, dict) else None
    return data


def _refuse_beside(data: Mapping[str, Any], file: File) -> None:
    for name in data:
        if name != "cluster":
            raise CommandError(
                "bad_request", f"{name!r} in {file.place((name,))} stands beside 'cluster'", "Put it into that table."
            )


def _text(path: str, prefix: str) -> str:
    try:
        if os.path.exists(path) and not os.path.isfile(path):
            raise CommandError("bad_request", f"{prefix}{path} cannot be read: it is not a file", _NAME_ONE)
        with open(path, "rb") as file:
            data = file.read(LONGEST + 1)
    except OSError as error:
        raise CommandError("bad_request", f"{prefix}{path} cannot be read: {error.strerror}", _NAME_ONE) from None
    if len(data) > LONGEST:
        raise CommandError("bad_request", f"{prefix}{path} is longer than {LONGEST} bytes", _NAME_ONE)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise CommandError(
            "bad_request", f"{prefix}{path}:{line} cannot be read: it is not UTF-8 text", "Save it as UTF-8."
        ) from None


_NAME_ONE = "Name a file of settings that you can read: --config FILE."


def _toml(text: str, path: str) -> dict[str, Any]:
    import tomllib  # only needed if there is a file

    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        reason, _, place = str(error).partition(" (at ")
        found = re.match(r"line (\d+)", place)
        line = int(found[1]) if found else text.rstrip("\n").count("\n") + 1
        place = place if found else f"line {line}, its last)"
        twice = reason.startswith(("Cannot overwrite", "Cannot declare"))
        raise CommandError(
            "bad_request",
            f"{path} is not valid TOML: {reason} (at {place}",
            "It stands there already: keep one of them." if twice else _HOW_TOML.get(_slip(text, line), _PLAIN_TOML),
        ) from None


_PLAIN_TOML = 'A setting is a line NAME = VALUE: workers = 4, or stop_timeout = "10s" (text stands in quotes).'
_HOW_TOML = {
    "text": 'Text stands in quotes: target = "worker.py".',
    "table": "A table is named in brackets: [groups.web].",
    "flag": "Write true or false, in small letters and without quotes.",
}


def _slip(text: str, line: int) -> str:
    """Return the likely kind of syntax error in that line, or an empty string."""
    lines = text.splitlines()
    written = lines[line - 1].strip() if line <= len(lines) else ""
    if written.startswith("["):
        return "table"
    value = written.partition("=")[2].strip()
    return "flag" if value in ("True", "False", "yes", "no", "on", "off") else "text" if value[:1].isalpha() else ""


def _json(text: str, path: str) -> dict[str, Any]:
    try:
        data = json.loads(text, object_pairs_hook=_once)
    except _Twice as twice:
        raise CommandError(
            "bad_request", f"{path}: {twice.args[0]!r} stands there twice", "Keep one of them."
        ) from None
    except (ValueError, RecursionError) as error:
        raise CommandError(
            "bad_request",
            f"{path} is not valid JSON: {error}",
            'Names and texts stand in "double quotes", with a comma between two entries and none after the last.',
        ) from None
    if not isinstance(data, dict):
        hint = 'Write {"cluster": {"workerCount": 4}}.'
        raise CommandError("bad_request", f"{path} holds no object of settings", hint)
    return data


class _Twice(Exception):
    """A duplicate name in an object."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise _Twice(name)
        found[name] = value
    return found


# -- lines -------------------------------------------------------------------------------------------------------------


def _toml_lines(text: str) -> dict[Keys, int]:
    found: dict[Keys, int] = {}
    table: Keys = ()
    within = ""  # the delimiter of a multi-line string
    for number, line in enumerate(text.splitlines(), 1):
        if not within:
            header, key = _TOML_TABLE.match(line), _TOML_KEY.match(line)
            if header:
                table = _parts(header[1])
                for depth in range(len(table)):
                    found.setdefault(table[: depth + 1], number)
            elif key:
                found.setdefault((*table, *_parts(key[1])), number)
        for mark in _MULTILINE.findall(line):
            within = "" if within == mark else within or mark
    return found


def _parts(dotted: str) -> Keys:
    return tuple(part.strip("\"'") for part in re.findall(_KEY, dotted))


def _json_lines(text: str) -> dict[Keys, int]:
    found: dict[Keys, int] = {}
    path: list[str] = []
    number, last, depth = 1, "", 0
    for mark in _marks(text):
        if mark == "\n":
            number += 1
        elif mark == ":":
            del path[max(0, depth - 1) :]
            path.append(json.loads(last))
            found.setdefault(tuple(path), number)
        elif mark in "{[":
            depth += 1
            path += [""] * (depth - 1 - len(path))
        elif mark in "}]":
            depth -= 1
        last = mark if mark != "\n" else last
    return found


def _marks(text: str) -> Iterable[str]:
    return (match[0] for match in _JSON_TOKEN.finditer(text))
