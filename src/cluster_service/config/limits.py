"""Parsing of resource limits: text, numbers, lists and tables to the canonical form of ``core.model.spec``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from cluster_service.control.errors import CommandError
from cluster_service.core.model.spec import SPREAD, UNLIMITED, format_cpu_list, parse_cpu_list
from cluster_service.wire import signals

from . import values

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
                f"there is no limit {name!r}{values.suggestion(known, NAMES)}",
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
        number = values.size(text)
    elif unit == "seconds":
        number = int(values.duration(text))
    else:
        number = values.integer(text, 0)
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
