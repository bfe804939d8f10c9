"""Parsing of command arguments, shared by all interfaces.

A command line consists of words: positional arguments in order, ``--name value``, ``--name=value`` and, once the
required arguments are present, ``name:value``; ``--`` and what follows it; a JSON object of options may be the last
word. An HTTP body is a JSON object of arguments; a Python call has positional and named ones. All end in ``check``.
Every CommandError names the command and the argument.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import re
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cluster_service.config import setting_values
from cluster_service.config.setting_values import quoted
from cluster_service.config.settings_table import canonical
from cluster_service.errors import CommandError

from .json_text import parse_json
from .registry import ARGS

if TYPE_CHECKING:
    from .registry import Command, Parameter

_SELECTOR = re.compile(r"(?:pid:\d{1,10}|\d{1,10}|[A-Za-z][\w.-]{0,80})\Z", re.ASCII)
_CHANGE = re.compile(r"[+-]?\d{1,6}\Z", re.ASCII)
_URL_PATH = re.compile(r"/[!-~]*\Z", re.ASCII)
_NUMBER = re.compile(r"-\d+\Z", re.ASCII)

_FIRST_WORD = re.compile(r"""\s*(["']?)([A-Za-z][\w.-]{0,63})\1(?=\s|\Z)""", re.ASCII)
_OBJECT = re.compile(r"(?<=\s)\{")
_PIECE = re.compile(r"""([ \t\r\n]+)|'([^']*)'|"((?:[^"\\]|\\.)*+)"|\\(.)|([^ \t\r\n'"\\]+)""", re.DOTALL)
"""One piece of a command line: whitespace, a quotation of either kind, an escaped character, or plain text."""
_ESCAPED = re.compile(r"""\\(["\\])""")
"""Inside double quotes a backslash escapes only these characters."""
MAX_WORDS = 1000
"""Maximum number of words in a command line."""
MAX_OBJECTS = 16
"""Maximum number of positions at which the JSON object of options is tried."""

PROGRAM = "program"
"""The argument that records that the target stood after ``--``."""


def _selector(_parameter: Parameter, value: Any) -> str:
    text = str(value)
    if isinstance(value, bool) or not _SELECTOR.match(text):
        raise CommandError(
            "bad_request", f"{quoted(value)} names no worker: write all, a group, GROUP.SLOT, a slot or a pid"
        )
    return text


def _change(_parameter: Parameter, value: Any) -> str:
    text = str(value).strip()
    if isinstance(value, bool) or not _CHANGE.match(text):
        raise CommandError("bad_request", f"{quoted(value)} is no number of workers: write 4, +1 or -1")
    return text


def _timeout(_parameter: Parameter, value: Any) -> float:
    seconds = setting_values.duration(value)
    if seconds <= 0:
        raise CommandError(
            "bad_request", f"{quoted(value)} is no time at all: write 60 (seconds), 1500ms, 10s, 5m or 2h"
        )
    return seconds


def _milliseconds(_parameter: Parameter, value: Any) -> str:
    """Return the duration with its unit, since it is checked again on arrival. A plain number is in milliseconds."""
    return f"{setting_values.duration(value, 'ms') * 1000:.3f}".rstrip("0").rstrip(".") + "ms"


def _url_path(_parameter: Parameter, value: Any) -> str:
    text = setting_values.text(value)
    if not _URL_PATH.match(text):
        raise CommandError(
            "bad_request", f"{quoted(value)} is not the path of a URL: write /health, without host and spaces"
        )
    return text


def _setting(_parameter: Parameter, value: Any) -> Any:
    if isinstance(value, str) and "\0" in value:
        raise CommandError("bad_request", f"{quoted(value)} holds a NUL character")
    return value


def _string(_parameter: Parameter, value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise CommandError("bad_request", f"{quoted(value)} is not text")
    return str(value)


def _number(_parameter: Parameter, value: Any) -> float:
    try:
        number = float("nan" if isinstance(value, bool) else value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise CommandError("bad_request", f"{quoted(value)} is not a number: write 4, 0.5 or -1e3")
    return number


def _object(_parameter: Parameter, value: Any) -> dict[str, Any]:
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            value = parse_json(value)
    if not isinstance(value, Mapping):
        raise CommandError("bad_request", f"{quoted(value)} is not a JSON object: write '{{\"key\": 1}}'")
    return {str(name): item for name, item in value.items()}


def _choice(parameter: Parameter, value: Any) -> str:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return setting_values.choice(str(value) if is_number else value, parameter.choices)


KINDS: dict[str, Callable[[Parameter, Any], Any]] = {
    "any": lambda _parameter, value: value,
    "string": _string,
    "number": _number,
    "object": _object,
    "text": lambda _parameter, value: setting_values.text(value),
    "integer": lambda _parameter, value: setting_values.integer(value),
    "duration": lambda _parameter, value: setting_values.duration(value),
    "timeout": _timeout,
    "size": lambda _parameter, value: setting_values.size(value),
    "flag": lambda _parameter, value: setting_values.flag(value),
    "choice": _choice,
    "selector": _selector,
    "change": _change,
    "argument": lambda _parameter, value: setting_values.argument(value),
    "target": lambda _parameter, value: setting_values.text(value),
    "file": lambda _parameter, value: setting_values.text(value),
    "milliseconds": _milliseconds,
    "caller": lambda _parameter, value: setting_values.text(value),
    "executable": lambda _parameter, value: setting_values.text(value),
    "url path": _url_path,
    "setting": _setting,
}
"""Kind of parameter -> the function that checks a value and returns it, durations in seconds.

``milliseconds`` returns a text with its unit. The configuration checks a ``setting`` later.
"""


def _directory(value: str) -> str:
    return os.path.abspath(os.path.expanduser(value))


def _file(value: str) -> str:
    path = _directory(value)
    return path if os.path.isfile(path) else value


def _executable(value: str) -> str:
    """Return the absolute path of an interpreter or virtual environment; leave other bare names for PATH."""
    path = _directory(value)
    return path if "/" in value or os.path.isdir(os.path.join(path, "bin")) else value


PLACES: dict[str, Callable[[str], str]] = {
    "caller": _directory,
    "target": _file,
    "file": _file,
    "executable": _executable,
}
"""Kinds of parameter that may be relative to the caller's directory -> the function that makes them absolute."""


def from_here(command: Command, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return *given* with paths made absolute: the service has another working directory.

    A target given without a directory runs in the caller's. A target that is not a file here is left unchanged: it is
    ``package.module:app``, or an error that the service reports best.
    """
    placed = dict(given)
    for parameter in command.parameters:
        value = placed.get(parameter.name)
        if parameter.kind == "caller" and "target" in given:  # without a target, the directory stays unchanged
            value = value or "."
        if parameter.kind not in PLACES or not isinstance(value, str):
            continue
        if parameter.kind == "target" and given.get(PROGRAM) and "/" not in value:
            continue  # found on PATH, as in a shell
        placed[parameter.name] = PLACES[parameter.kind](value)
    return placed


def name_of(line: str) -> str:
    """Return the first word of a command line, without quotes: the name of the command."""
    match = _FIRST_WORD.match(line)
    return match[2] if match is not None else "".join(line.split(None, 1)[:1])


def split(line: str) -> list[str]:
    """Return the words of a command line as a shell splits them; a JSON object at the end is one word.

    Takes time linear in the length of the line. Raises CommandError bad_request if a quotation is not closed or there
    are more than ``MAX_WORDS`` words.
    """
    line = line.strip()
    tail: list[str] = []
    if line.endswith("}"):
        for match in itertools.islice(_OBJECT.finditer(line), MAX_OBJECTS):
            try:
                parse_json(line[match.start() :])
            except ValueError:
                continue
            tail = [line[match.start() :]]
            line = line[: match.start()]
            break
    return _words(line) + tail


def _words(line: str) -> list[str]:
    """Split *line* like ``shlex.split``, but in linear time: that is quadratic in the length of a word."""
    words: list[str] = []
    parts: list[str] | None = None
    at = 0
    while at < len(line):
        match = _PIECE.match(line, at)
        if match is None:
            raise CommandError(
                "bad_request", "a quotation in the command does not end", "Write \\' or \\\" for the mark itself."
            )
        at = match.end()
        blank, single, double, escaped, plain = match.groups()
        if blank is not None:
            words += [] if parts is None else ["".join(parts)]
            parts = None
            if len(words) > MAX_WORDS:
                raise CommandError("bad_request", f"the command has more than {MAX_WORDS} words")
            continue
        parts = [] if parts is None else parts
        if double is not None:
            double = _ESCAPED.sub(r"\1", double)
        parts.append(next(piece for piece in (single, double, escaped, plain) if piece is not None))
    return words if parts is None else [*words, "".join(parts)]


def from_words(command: Command, words: Sequence[str], options: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the checked arguments in *words*, merged with *options* that were parsed before."""
    by_name = {parameter.name: parameter for parameter in command.parameters}
    by_flag = {
        flag: parameter for parameter in command.parameters for flag in (parameter.option, parameter.short) if flag
    }
    places = [parameter for parameter in command.parameters if parameter.positional]
    given: dict[str, Any] = dict(options or {})
    rest = deque(words)
    takes_object = any(place.kind == "object" for place in places)
    if rest and rest[-1].startswith("{") and rest[-1].endswith("}") and "--" not in rest and not takes_object:
        given = {**_json_options(command, rest.pop()), **given}
    while rest:
        word = rest.popleft()
        if word == "--":
            _after_dashes(command, given, rest)
            break
        if word == "-m" and rest and "target" in by_name and "target" not in given:
            given["target"] = f"-m {rest.popleft()}"
            continue
        if word.startswith("-") and word != "-" and not _NUMBER.match(word):
            _named(command, by_flag, given, word, rest)
            continue
        name, colon, value = word.partition(":")
        missing = [place for place in places if place.name not in given]
        if colon and canonical(name) in by_name and not any(comes_first(place, value) for place in missing):
            _set(command, by_name[canonical(name)], given, value)
        elif missing:
            given[missing[0].name] = [word] if missing[0].many else word
        elif places and places[-1].many:
            _set(command, places[-1], given, word)
        else:
            raise _bad(command, f"{quoted(word)} is one argument too many")
    return check(command, given)


def comes_first(place: Parameter, value: str) -> bool:
    """Return True if ``name:value`` is the argument missing at *place*: ``server:app`` may be a target."""
    return place.required or (place.kind == "target" and value.partition("(")[0].replace(".", "").isidentifier())


def _json_options(command: Command, text: str) -> dict[str, Any]:
    try:
        data = parse_json(text)
    except ValueError as error:
        raise _bad(command, f"the options {quoted(text)} are not a JSON object: {error}") from None
    assert isinstance(data, dict)  # it starts with a brace
    return {canonical(name): value for name, value in data.items()}


def _named(
    command: Command, by_flag: Mapping[str, Parameter], given: dict[str, Any], word: str, rest: deque[str]
) -> None:
    flag, equals, value = word.partition("=")
    parameter = by_flag.get("--" + canonical(flag[2:]).replace("_", "-") if flag.startswith("--") else flag)
    negative = None
    if parameter is None and flag.startswith("--no-"):
        negative = by_flag.get("--" + flag[5:])
        if negative is not None and negative.kind != "flag":
            negative = None
    if negative is not None:
        _set(command, negative, given, "false")
        return
    if parameter is None:
        raise _bad(command, f"unknown option {flag[:80]}{setting_values.suggestion(flag, by_flag)}")
    if parameter.kind == "flag":
        _set(command, parameter, given, value if equals else "true")
        return
    if not equals:
        if not rest:
            raise _bad(command, f"{flag[:80]} needs a value ({parameter.label})")
        value = rest.popleft()
    _set(command, parameter, given, value)


def _set(command: Command, parameter: Parameter, given: dict[str, Any], value: str) -> None:
    if parameter.many and isinstance(given.setdefault(parameter.name, []), list):
        given[parameter.name].append(value)
    elif parameter.name in given:
        raise _bad(command, f"{parameter.option} was given twice")
    else:
        given[parameter.name] = value


def _after_dashes(command: Command, given: dict[str, Any], rest: deque[str]) -> None:
    """Read the words after ``--``: a program (``start -- node server.js``), or the arguments of the target."""
    takes = {parameter.name for parameter in command.parameters}
    if ARGS not in takes or not rest:
        raise _bad(command, "nothing can stand after --" if rest else "there is nothing after --")
    if "target" in takes and "target" not in given:
        given["target"] = rest.popleft()
        given[PROGRAM] = True
    for word in rest:
        _set(command, next(each for each in command.parameters if each.name == ARGS), given, word)


def from_json(command: Command, data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the checked arguments of a JSON object; names may be in snake, kebab or camel case."""
    given: dict[str, Any] = {}
    for name, value in data.items():
        if canonical(name) in given:
            raise _bad(command, f"{quoted(name)} was given twice")
        given[canonical(name)] = value
    return check(command, given)


def from_call(command: Command, args: Sequence[Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the checked arguments of a Python call: *args* by position, *options* by name."""
    given: dict[str, Any] = {canonical(name): value for name, value in options.items()}
    places = [parameter for parameter in command.parameters if parameter.positional]
    for number, value in enumerate(args):
        if number >= len(places):
            raise _bad(command, f"{quoted(value)} is one argument too many")
        place = places[number]
        if place.name in given:
            raise _bad(command, f"{place.label} was given twice")
        if place.many:
            rest = list(args[number:])
            given[place.name] = value if len(rest) == 1 and isinstance(value, (list, tuple)) else rest
            break
        given[place.name] = value
    return check(command, given)


def check(command: Command, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return *given* with each value checked, without the values that are None. Raises CommandError."""
    by_name = {parameter.name: parameter for parameter in command.parameters}
    arguments: dict[str, Any] = {}
    for name, value in given.items():
        parameter = by_name.get(name)
        if parameter is None:
            raise _bad(command, f"unknown argument {quoted(name)}{setting_values.suggestion(name, by_name)}")
        if value is None:
            continue
        try:
            arguments[name] = _checked(parameter, value)
        except CommandError as error:
            raise CommandError(error.code, f"{command.name}: {parameter.name}: {error.message}", error.hint) from None
    for parameter in command.parameters:
        if parameter.required and parameter.name not in arguments:
            raise _bad(command, f"{parameter.label} is missing: {parameter.doc}")
    return arguments


def _checked(parameter: Parameter, value: Any) -> Any:
    kind = KINDS[parameter.kind]
    if not parameter.many:
        return kind(parameter, value)
    if isinstance(value, Mapping) and parameter.kind in ("text", "setting"):
        return dict(value)  # environment variables, as an object
    return [kind(parameter, item) for item in (value if isinstance(value, (list, tuple)) else [value])]


def _bad(command: Command, sentence: str) -> CommandError:
    return CommandError("bad_request", f"{command.name}: {sentence}", f"Usage: {command.usage}")
