"""Parsers of the kinds of setting, resource limits among them. ``setting_values`` contains those of plain values."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from cluster_service.core.model.spec import SPREAD, UNLIMITED, format_cpu_list, parse_cpu_list
from cluster_service.errors import CommandError
from cluster_service.rundir import check_name
from cluster_service.wire import signals

from . import environment_files, setting_values

if TYPE_CHECKING:
    from .settings_table import Setting

NAMES = {
    "as": "size", "core": "size", "cpu": "seconds", "data": "size", "fsize": "size", "memlock": "size",
    "msgqueue": "size", "nice": "number", "nofile": "number", "nproc": "number", "rss": "size", "rtprio": "number",
    "rttime": "number", "sigpending": "number", "stack": "size",
}  # fmt: skip
"""The limits of setrlimit(2) and their units; rttime is in microseconds."""

HIGHEST = (1 << 63) - 1
MOST_CPU = 4095
_UMASK = re.compile(r"0?[0-7]{1,3}\Z|0o[0-7]{1,3}\Z")
_CPUS = re.compile(r"\d{1,4}(-\d{1,4})?(,\d{1,4}(-\d{1,4})?)*\Z", re.ASCII)
_HOW = "Write nofile=65536, nofile=1024:65536 (soft and hard), as=2g or core=unlimited."


_NOT_TO_STOP = {
    "KILL": "no program can handle it, so every request would be cut",
    "STOP": "it halts a process and does not end it",
    "CONT": "it continues a process and does not end it",
}
_STOP_HINT = "Name the signal at which the program stops gracefully. SIGKILL follows after stop_timeout in any case."


def rlimits(raw: Any) -> tuple[str, ...]:
    """Return limits as ``("core=0", "as=1073741824:2147483648")`` for ``["core=0", "as=1g:2g"]`` or a table."""
    found: dict[str, str] = {}
    for name, value in _pairs(raw):
        known = name.lower().removeprefix("rlimit_")
        if known not in NAMES:
            raise CommandError(
                "bad_request",
                f"there is no limit {name!r}{setting_values.suggestion(known, NAMES)}",
                f"There are: {', '.join(NAMES)}.",
            )
        found[known] = _limit(known, value)
    return tuple(found.values())


def _pairs(raw: Any) -> list[tuple[str, Any]]:
    if isinstance(raw, Mapping):
        return [(str(name), value) for name, value in raw.items()]
    words = raw.replace(",", " ").split() if isinstance(raw, str) else raw
    if not isinstance(words, Sequence):
        raise CommandError("bad_request", f"{raw!r} sets no limit", _HOW)
    pairs = []
    for word in words:
        name, equals, value = str(word).partition("=")
        if not equals:
            raise CommandError("bad_request", f"{word!r} sets no limit", _HOW)
        pairs.append((name.strip(), value))
    return pairs


def _limit(name: str, raw: Any) -> str:
    first, colon, second = str(raw).strip().lower().partition(":") if not isinstance(raw, bool) else ("", "", "")
    try:
        soft, hard = _number(name, first), _number(name, second if colon else first)
    except CommandError as error:
        raise CommandError("bad_request", f"{name}: {error.message}", _HOW) from None
    if hard != UNLIMITED and (soft == UNLIMITED or int(soft) > int(hard)):
        raise CommandError("bad_request", f"{name}: the soft limit {soft} is above the hard one, {hard}", _HOW)
    return f"{name}={soft}" if soft == hard else f"{name}={soft}:{hard}"


def _number(name: str, text: str) -> str:
    if text in (UNLIMITED, "infinity"):
        return UNLIMITED
    unit = NAMES[name]
    if unit == "size":
        number = setting_values.size(text)
    elif unit == "seconds":
        number = int(setting_values.duration(text))
    else:
        number = setting_values.integer(text, 0)
    if number > HIGHEST:
        raise CommandError("bad_request", f"{text!r} is more than the kernel can count: write {UNLIMITED}")
    return str(number)


def umask(raw: Any) -> str:
    """Return a umask as three octal digits. A number is refused: it is unclear whether 22 was meant as octal."""
    text = raw if isinstance(raw, str) else str(raw) if raw == 0 and not isinstance(raw, bool) else ""
    if not _UMASK.match(text):
        raise CommandError(
            "bad_request", f"{raw!r} is not a umask", 'Write it as text, in octal, as the shell has it: "027".'
        )
    return f"{int(text, 8):03o}"


def stop_signal(raw: Any) -> str:
    """``"SIGQUIT"``, ``"quit"``, 3 -> ``"QUIT"``; a number without a name stays one."""
    text = str(raw).strip() if isinstance(raw, (str, int)) and not isinstance(raw, bool) else ""
    try:
        number = signals.signal_number(text)
    except ValueError:
        names = "Write TERM, INT, QUIT, HUP, USR1, USR2 or WINCH, with or without SIG, or a number."
        raise CommandError("bad_request", f"{raw!r} is not a signal", names) from None
    name = signals.signal_name(number).removeprefix("SIG")
    if name in _NOT_TO_STOP:
        raise CommandError("bad_request", f"{name} cannot be the stop signal: {_NOT_TO_STOP[name]}", _STOP_HINT)
    return name if not name.startswith("signal ") else str(number)


def affinity(raw: Any) -> str:
    """Return the canonical form of ``0``, ``[0, 1]``, ``"0-3,6"``, ``"spread"`` or ``"spread:0-3"``."""
    if isinstance(raw, Sequence) and not isinstance(raw, str):
        raw = ",".join(str(cpu) for cpu in raw)
    text = str(raw).replace(" ", "").lower() if not isinstance(raw, bool) else ""
    if text == SPREAD:
        return SPREAD
    prefix = f"{SPREAD}:" if text.startswith(f"{SPREAD}:") else ""
    text = text[len(prefix) :]
    numbers = parse_cpu_list(text) if _CPUS.match(text) else []
    if not numbers or numbers[-1] > MOST_CPU:
        raise CommandError(
            "bad_request", f"{raw!r} names no processors", f"Write 0-3,6; {SPREAD}: slot n has the nth of them all."
        )
    return prefix + format_cpu_list(numbers)


MOST_WORKERS = 1024
CONDITIONS = ("ready", "started")
"""Conditions for which a group may wait in another group."""
_STATUSES = re.compile(r"(\d{3})(?:\s*-\s*(\d{3}))?\Z")
_TIME_OF_DAY = re.compile(r"(\d{1,2}):(\d\d)\Z")
_HOST = re.compile(r"[^\s/:@]+\Z|\[?[0-9a-fA-F:.]+\]?\Z")
"""A host name without scheme and port, which are not compared."""
_DEPENDS = re.compile(r"([^:\s]+)(?::(\w+))?\Z")


def convert(setting: Setting, raw: Any, base: str, origin: str, unit: str = "s") -> Any:
    """Return *raw* converted to the kind of *setting*. Raises CommandError that begins with *origin*."""
    try:
        if isinstance(raw, Mapping) and setting.kind not in ("env", "limits"):
            hint = "A group's table is [groups.web]." if setting.name == "group" else f"Write {setting.name} = …"
            raise CommandError("bad_request", "a table stands where a value is wanted", hint)
        return KINDS[setting.kind](setting, raw, base, unit)
    except CommandError as error:
        raise CommandError(error.code, f"{origin}: {error.message}", error.hint) from None


def _count(_setting: Setting, raw: Any, _base: str, _unit: str) -> int | str:
    if raw == "auto":
        return "auto"
    try:
        return setting_values.integer(raw, 0, MOST_WORKERS)
    except CommandError:
        raise CommandError(
            "bad_request", f"{raw!r} is not a number of workers: write 0 to {MOST_WORKERS}, or auto"
        ) from None


def _duration(setting: Setting, raw: Any, _base: str, unit: str) -> float:
    seconds = setting_values.duration(raw, unit)
    if setting.least is not None and seconds <= 0:
        raise CommandError("bad_request", f"{raw!r} is no time at all: write 60 (seconds), 1500ms, 10s, 5m or 2h")
    return seconds


def _path(_setting: Setting, raw: Any, base: str, _unit: str) -> str:
    return os.path.abspath(os.path.join(base, os.path.expanduser(setting_values.text(raw))))


def _paths(setting: Setting, raw: Any, base: str, unit: str) -> tuple[str, ...]:
    return tuple(
        _path(setting, path, base, unit)
        for path in ([raw] if isinstance(raw, str) else _words(setting, raw, base, unit))
    )


def _choice(setting: Setting, raw: Any, _base: str, _unit: str) -> str:
    return setting_values.choice(str(raw).lower() if isinstance(raw, bool) else raw, setting.choices)


def _words(_setting: Setting, raw: Any, _base: str, _unit: str) -> tuple[str, ...]:
    words = raw.replace(",", " ").split() if isinstance(raw, str) else raw
    if not isinstance(words, Sequence):
        raise CommandError("bad_request", f"{raw!r} is not a list of texts")
    return tuple(setting_values.text(word) for word in words)


def _arguments(_setting: Setting, raw: Any, _base: str, _unit: str) -> tuple[str, ...]:
    """Return the arguments of a program; a text is split as by a shell, without expansion."""
    try:
        words = shlex.split(raw) if isinstance(raw, str) else raw
    except ValueError as error:
        raise CommandError("bad_request", f"{setting_values.quoted(raw)} cannot be split into words: {error}") from None
    if not isinstance(words, Sequence):
        raise CommandError("bad_request", f"{raw!r} is not a list of texts")
    return tuple(setting_values.argument(word) for word in words)


def _command(setting: Setting, raw: Any, base: str, unit: str) -> tuple[str, ...]:
    words = _arguments(setting, raw, base, unit)
    if not words or not words[0]:
        raise CommandError("bad_request", 'there is no program: write ["node", "server.js"]')
    return words


def _hosts(setting: Setting, raw: Any, base: str, unit: str) -> tuple[str, ...]:
    names = _words(setting, raw, base, unit)
    for name in names:
        if not _HOST.match(name):
            raise CommandError("bad_request", f"{name!r} is not the name of a host: write service.example.org")
    return names


def _env(_setting: Setting, raw: Any, _base: str, _unit: str) -> tuple[tuple[str, str], ...]:
    if isinstance(raw, Mapping):
        pairs = [(str(key), _variable(str(key), value)) for key, value in raw.items()]
    else:
        pairs = []
        if not isinstance(raw, (str, Sequence)):
            raise CommandError("bad_request", f"{raw!r} sets no variable: write NAME=VALUE, or a table [env]")
        for item in [raw] if isinstance(raw, str) else list(raw):
            if not isinstance(item, str) or "=" not in item:
                raise CommandError("bad_request", f"{item!r} sets no variable: write NAME=VALUE")
            name, _, value = item.partition("=")
            pairs.append((name, value))
    for name, value in pairs:
        if not name or "=" in name or "\0" in name + value:
            raise CommandError("bad_request", f"{name!r} cannot be the name of a variable: write NAME=VALUE")
    return tuple(dict(pairs).items())


def _variable(name: str, value: Any) -> str:
    if isinstance(value, (Mapping, list, tuple, type(None))):
        raise CommandError("bad_request", f"the variable {name} cannot be {value!r}: write text or a number")
    return str(value).lower() if isinstance(value, bool) else str(value)


def _env_files(setting: Setting, raw: Any, base: str, unit: str) -> tuple[str, ...]:
    """Return absolute paths, each with its ``-`` prefix if it has one."""
    found = []
    for word in [raw] if isinstance(raw, str) else _words(setting, raw, base, unit):
        path = word.removeprefix(environment_files.OPTIONAL)
        found.append(word[: len(word) - len(path)] + _path(setting, path, base, unit))
    return tuple(found)


def _binds(setting: Setting, raw: Any, base: str, unit: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(setting_values.canonical(word, base) for word in _words(setting, raw, base, unit)))


def _name(_setting: Setting, raw: Any, _base: str, _unit: str) -> str:
    return check_name(setting_values.text(raw))


def _group(setting: Setting, raw: Any, base: str, unit: str) -> str:
    name = _name(setting, raw, base, unit)
    if name == "all":
        raise CommandError(
            "bad_request", "a group cannot be called 'all': that means every group", "Call it web, or jobs."
        )
    return name


def _depends(setting: Setting, raw: Any, base: str, unit: str) -> tuple[tuple[str, str], ...]:
    """Return (group, condition) pairs for ``db``, ``db:ready`` or ``db:started``."""
    found: dict[str, str] = {}
    for word in _words(setting, raw, base, unit):
        match = _DEPENDS.match(word)
        condition = match[2] or CONDITIONS[0] if match else ""
        if match is None or condition not in CONDITIONS:
            near = setting_values.suggestion(condition, CONDITIONS)
            raise CommandError(
                "bad_request", f"{word!r} names no group to wait for{near}", "Write db:ready or db:started."
            )
        found[_group(setting, match[1], base, unit)] = condition
    return tuple(found.items())


def _groups(setting: Setting, raw: Any, base: str, unit: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(_group(setting, word, base, unit) for word in _words(setting, raw, base, unit)))


def _url_path(_setting: Setting, raw: Any, _base: str, _unit: str) -> str:
    path = setting_values.text(raw)
    if not path.startswith("/") or not path.isascii() or not path.isprintable() or " " in path:
        raise CommandError("bad_request", f"{raw!r} is not the path of a URL: write /health")
    return path


def _statuses(_setting: Setting, raw: Any, _base: str, _unit: str) -> tuple[int, int]:
    """Return the first and last status of ``204`` or ``200-299``."""
    match = _STATUSES.match(str(raw).strip())
    first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not 100 <= first <= last <= 599:
        raise CommandError("bad_request", f"{raw!r} are no statuses of HTTP: write 204, or 200-299")
    return first, last


def _cron(_setting: Setting, raw: Any, _base: str, _unit: str) -> str:
    """Return the cron expression for ``04:00`` or ``0 4 * * sun``."""
    text = setting_values.text(raw).strip()
    match = _TIME_OF_DAY.match(text)
    schedule = f"{int(match[2])} {int(match[1])} * * *" if match else text
    from cronsim import CronSim, CronSimError  # only needed for this setting

    try:
        next(CronSim(schedule, datetime(2024, 1, 1, tzinfo=UTC)))
    except (CronSimError, StopIteration) as error:
        why = str(error) or "it never comes"
        raise CommandError(
            "bad_request", f"{raw!r} is no time of day ({why.lower()}): write 04:00, or as cron has it, 0 4 * * sun"
        ) from None
    return schedule


def _expect_port(_setting: Setting, raw: Any, _base: str, _unit: str) -> bool | int:
    """``yes``, ``no`` or the number of a port."""
    words = {"yes": True, "true": True, "on": True, "no": False, "false": False, "off": False}
    word = str(raw).strip().lower()
    try:
        return words[word] if word in words else setting_values.integer(raw, 1, 65535)
    except CommandError:
        shown = setting_values.quoted(raw)
        raise CommandError("bad_request", f"{shown} is not a port: write 8000, yes or no") from None


def _key(_setting: Setting, raw: Any, _base: str, _unit: str) -> str:
    if not isinstance(raw, str) or not raw.strip() or not raw.isprintable():
        # never quote the value: it may be a mistyped key
        raise CommandError("bad_request", "an access key is printable text in one line")
    return raw.strip()


KINDS: dict[str, Callable[[Setting, Any, str, str], Any]] = {
    "text": lambda _setting, raw, _base, _unit: setting_values.text(raw),
    "words": _words,
    "arguments": _arguments,
    "command": _command,
    "count": _count,
    "integer": lambda setting, raw, _base, _unit: setting_values.integer(raw, setting.least, setting.most),
    "duration": _duration,
    "flag": lambda _setting, raw, _base, _unit: setting_values.flag(raw),
    "choice": _choice,
    "path": _path,
    "paths": _paths,
    "env": _env,
    "hosts": _hosts,
    "env_files": _env_files,
    "limits": lambda _setting, raw, _base, _unit: rlimits(raw),
    "umask": lambda _setting, raw, _base, _unit: umask(raw),
    "signal": lambda _setting, raw, _base, _unit: stop_signal(raw),
    "cpus": lambda _setting, raw, _base, _unit: affinity(raw),
    "binds": _binds,
    "name": _name,
    "group": _group,
    "depends": _depends,
    "groups": _groups,
    "url_path": _url_path,
    "statuses": _statuses,
    "size": lambda _setting, raw, _base, _unit: 0 if raw == 0 else setting_values.size(raw),
    "cron": _cron,
    "expect_port": _expect_port,
    "key": _key,
}
"""Kind of setting -> the parser: (setting, raw value, base directory, unit of a plain number) -> the value."""
