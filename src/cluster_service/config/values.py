"""Parsers of plain values for settings and arguments.

A value is text (command line, environment) or a type of TOML and JSON (numbers, booleans, lists). Every function raises
CommandError bad_request that says what was wrong and how to write it.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

from cluster_service.control.errors import CommandError

if TYPE_CHECKING:
    from collections.abc import Iterable

_DURATION = re.compile(r"\+?(\d+(?:\.\d*)?|\.\d+)\s*(ms|s|m|h|)\Z", re.ASCII)
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_SIZE = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*([kmgt]?)(?:i?b)?\Z", re.ASCII | re.IGNORECASE)
_BYTES = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_TRUE = {"1", "true", "yes", "on"}
_FALSE = {"0", "false", "no", "off"}

MAX_CHARACTERS = 64
"""Maximum length of a text that is parsed as a number, duration or size, or compared for a suggestion."""
MAX_INTEGER = 2**63 - 1

LONGEST = 10 * 365 * 86400.0
"""Maximum duration in seconds; a longer one is probably a mistake, and would overflow a timer."""


def quoted(value: Any) -> str:
    """Return the repr of *value*, truncated, for error messages."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _bad(sentence: str, hint: str = "") -> CommandError:
    return CommandError("bad_request", sentence, hint)


def duration(value: Any, unit: str = "s") -> float:
    """Return *value* in seconds. *unit*: the unit of a plain number."""
    text = str(value).strip() if isinstance(value, (str, int, float)) and not isinstance(value, bool) else ""
    match = _DURATION.match(text) if len(text) <= MAX_CHARACTERS else None
    if match is None:
        raise _bad(f"{quoted(value)} is not a duration: write 60 (seconds), 1500ms, 10s, 5m or 2h")
    seconds = float(match[1]) * _SECONDS[match[2] or unit]
    if seconds > LONGEST:
        raise _bad(f"{quoted(value)} is longer than ten years: write 60 (seconds), 1500ms, 10s, 5m or 2h")
    return seconds


def size(value: Any) -> int:
    """Return *value* in bytes."""
    text = str(value).strip() if not isinstance(value, bool) else ""
    match = _SIZE.match(text) if len(text) <= MAX_CHARACTERS else None
    number = int(float(match[1]) * _BYTES[match[2].lower()]) if match is not None else -1
    if number > MAX_INTEGER:
        raise _bad(f"{quoted(value)} is more than the kernel can count")
    if number < 0:
        raise _bad(f"{quoted(value)} is not a size: write 1048576 (bytes), 64k, 512m or 2g")
    return number


def integer(value: Any, least: int | None = None, most: int | None = None) -> int:
    """Return *value* as an integer between *least* and *most*."""
    long = isinstance(value, str) and len(value) > MAX_CHARACTERS
    if long or isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
        number = None
    else:
        try:
            number = int(value)
        except (TypeError, ValueError, OverflowError):
            number = None
    if number is not None and abs(number) > MAX_INTEGER:
        number = None
    if number is None or (least is not None and number < least) or (most is not None and number > most):
        raise _bad(f"{quoted(value)} is not {_a_number(least, most)}")
    return number


def _a_number(least: int | None, most: int | None) -> str:
    if most is not None:
        return f"a whole number from {0 if least is None else least} to {most}"
    return "a whole number" if least is None else f"a whole number of at least {least}"


def flag(value: Any) -> bool:
    """Return *value* as a boolean."""
    if isinstance(value, bool):
        return value
    word = str(value).strip().lower()
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise _bad(f"{quoted(value)} is neither true nor false: write true or false")


def text(value: Any) -> str:
    """Return *value* as text for an argument or a path: not empty and without NUL."""
    if (
        isinstance(value, bool)
        or not isinstance(value, (str, int, float))
        or (isinstance(value, float) and math.isnan(value))
    ):
        raise _bad(f"{quoted(value)} is not text")
    word = str(value)
    if not word or "\0" in word:
        raise _bad(f"{quoted(value)} is empty" if not word else f"{quoted(value)} holds a NUL character")
    return word


def argument(value: Any) -> str:
    """Return *value* as an argument of a program: text, possibly empty."""
    return "" if value == "" else text(value)


def choice(value: Any, choices: Iterable[str]) -> str:
    """Return *value* if it is one of *choices*."""
    known = list(choices)
    if value not in known:
        raise _bad(f"{quoted(value)} is not one of {', '.join(known)}{suggestion(str(value), known)}")
    return str(value)


def suggestion(word: str, known: Iterable[str]) -> str:
    """Return ``: did you mean 'workers'?`` if *word* is similar to one of *known*, else an empty string."""
    near = nearest(word, known)
    return f": did you mean {near!r}?" if near else ""


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Return the one of *known* that is most similar to *word*, or None."""
    import difflib  # noqa: PLC0415 - only needed for an error

    if len(word) > MAX_CHARACTERS:  # takes quadratic time
        return None
    found = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return found[0] if found else None
