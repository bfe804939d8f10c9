"""Limits on everything that a worker sends, checked before it is used. Pure functions."""

from __future__ import annotations

import json
import re
from typing import Any, Callable, Dict, Mapping, NoReturn, Optional

UNSEEN = (
    (0xAD, 0xAD),  # the soft hyphen
    (0x61C, 0x61C),  # a mark of direction, as 0x200E, 0x200F
    (0x180E, 0x180E),
    (0x200B, 0x200B),  # a space without width
    (0x200E, 0x200F),
    (0x202A, 0x202E),  # embeds and overrides a direction
    (0x2060, 0x206F),  # invisible operators, isolated directions
    (0xFEFF, 0xFEFF),  # the byte order mark
    (0xFFF9, 0xFFFB),
    (0x1BCA0, 0x1BCA3),
    (0x1D173, 0x1D17A),
    (0xE0000, 0xE007F),  # tags: a second, invisible ASCII
)
"""The first and the last of each range."""

IN_CLASS = "".join(f"{chr(first)}-{chr(last)}" for first, last in UNSEEN)
"""The same for a regular expression, to stand between brackets."""


MAX_BYTES = 64 * 1024
"""Maximum length of a datagram, in bytes."""
MAX_DEPTH = 64
"""Maximum nesting depth of objects and arrays."""
MAX_INTEGER = 1 << 64
"""Absolute values of integers are smaller than this."""
MAX_ID = 80
"""Maximum length of the id of a bus message, in characters."""
MAX_NAME = 128
"""Maximum length of a name (of a command, event, group or message type), in characters."""
MAX_TEXT = 500
"""Maximum length of a status text, in characters."""
MAX_SECONDS = 86_400
"""Maximum time that a worker can request: one day."""

_DIGITS = len(str(MAX_INTEGER))
_LARGE_INTEGER = re.compile(r"[0-9][0-9]{18}")
_LARGE_EXPONENT = re.compile(r"[eE][+]?[0-9][0-9]{2}")
_NOT_DIGITS = bytes(set(range(256)) - set(b"0123456789"))
_STRING = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"?', re.DOTALL)
_ALIKE = bytes.maketrans(b"{}", b"[]")
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


class Invalid(Exception):
    """The data from a worker exceeds a limit. The text says which, and contains none of the data."""


# ------------------------------------------------------------------ JSON


def loads(data: bytes, limit: int = MAX_BYTES) -> Any:
    """Return the value of the JSON text *data*. Raises Invalid.

    Refuses more than *limit* bytes, text that is not UTF-8, nesting deeper than ``MAX_DEPTH``, integers from
    ``MAX_INTEGER`` on, and numbers that are not finite. A lone surrogate is replaced by U+FFFD.
    """
    if len(data) > limit:
        raise Invalid(f"longer than {limit} bytes")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise Invalid("not UTF-8") from None
    _check_depth(text)
    try:
        value = (_CAREFUL if _may_hold_large_numbers(data, text) else _FAST).decode(text)
    except (ValueError, RecursionError):
        raise Invalid("not JSON") from None
    return _whole_text(value) if _SURROGATE.search(text) else value


def _check_depth(text: str) -> None:
    """Raise Invalid if *text* is nested too deeply. Each iteration removes the innermost level, in C for speed."""
    if text.count("[") + text.count("{") <= MAX_DEPTH:
        return
    brackets = _STRING.sub("", text).encode().translate(_ALIKE, _NOT_BRACKETS)
    for _ in range(MAX_DEPTH):
        outer = brackets.replace(b"[]", b"")
        if len(outer) == len(brackets):  # nothing is left, or it is not valid JSON
            break
        brackets = outer
    if brackets.count(b"[") > (0 if b"[]" in brackets else MAX_DEPTH):
        raise Invalid(f"nested deeper than {MAX_DEPTH} levels")


def _may_hold_large_numbers(data: bytes, text: str) -> bool:
    """Return True if the numbers in *text* must be checked one by one; a cheap test."""
    if len(data.translate(None, _NOT_DIGITS)) < 3:
        return False
    return _LARGE_INTEGER.search(text) is not None or _LARGE_EXPONENT.search(text) is not None


def _integer(text: str) -> int:
    if len(text) <= _DIGITS + 1:
        value = int(text)
        if -MAX_INTEGER < value < MAX_INTEGER:
            return value
    raise Invalid("an integer of more than 64 bits")


def _number(text: str) -> float:
    value = float(text)
    if value - value != 0.0:  # infinite
        raise Invalid("a number that is not finite")
    return value


def _constant(_name: str) -> NoReturn:
    raise Invalid("a number that is not finite")


_CAREFUL = json.JSONDecoder(parse_int=_integer, parse_float=_number, parse_constant=_constant)
_FAST = json.JSONDecoder(parse_constant=_constant)
"""For text without large numbers: a Python call for each number would take ten times as long."""


def _whole_text(value: Any) -> Any:
    """Replace lone surrogates. The depth of *value* was checked before."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [_whole_text(item) for item in value]
    if isinstance(value, dict):
        return {_whole_text(key): _whole_text(item) for key, item in value.items()}
    return value


# ------------------------------------------------------------------ messages on the worker's channel


def message(value: Any) -> Dict[str, Any]:
    """Return *value* as a message whose fields have the types required by its own type. Raises Invalid.

    A message of an unknown type is returned unchanged: a newer worker and a newer master may share it.
    """
    if not isinstance(value, dict):
        raise Invalid("not an object")
    kind = value.get("type")
    if not isinstance(kind, str) or not 0 < len(kind) <= MAX_NAME:
        raise Invalid("no type")
    fields = _MESSAGES.get(kind)
    if fields is None:
        return value
    return {"type": kind, **{name: take(value.get(name)) for name, take in fields.items()}}


def _id(value: Any) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= MAX_ID or _CONTROL.search(value):
        raise Invalid(f"no id, or one of more than {MAX_ID} characters")
    return value


def _name(value: Any) -> Optional[str]:
    """Truncate a name that is too long: no command or group has such a name, and the sender gets that answer."""
    return plain_text(value, MAX_NAME + 1) if isinstance(value, str) else None


def _only(kind: type) -> Callable[[Any], Any]:
    return lambda value: value if isinstance(value, kind) else None


def notify_fields(value: Any) -> Dict[str, str]:
    """Return the sd_notify(3) fields in *value* that the service uses; others are dropped."""
    if not isinstance(value, Mapping):
        return {}
    found = {}
    for name, take in NOTIFY_FIELDS.items():
        text = value.get(name)
        if isinstance(text, str):
            taken = take(text)
            if taken is not None:
                found[name] = taken
    return found


_MESSAGES: Dict[str, Dict[str, Callable[[Any], Any]]] = {
    "ready": {"ready": lambda value: value is None or value is True},
    "notify": {"fields": notify_fields},
    "trigger": {"id": _id, "name": _name, "args": _only(list), "options": _only(dict)},
    "broadcast": {"id": _id, "message": lambda value: value, "group": _name},
    "got": {"id": _id, "taken": lambda value: value is True},
}
"""Type of message -> its fields. A field of the wrong type becomes None: the master answers that it is invalid."""



# ------------------------------------------------------------------ sd_notify


def parse_notify(data: bytes) -> Dict[str, str]:
    r"""Return the fields of an sd_notify datagram (``READY=1\nSTATUS=…``) that the service uses. Raises Invalid."""
    if len(data) > MAX_BYTES:
        raise Invalid(f"longer than {MAX_BYTES} bytes")
    found = {}
    for line in data.split(b"\n"):
        name, equals, value = line.partition(b"=")
        if equals and name in _NOTIFY_NAMES:
            found[name.decode("ascii")] = value[: 4 * MAX_TEXT].decode("utf-8", "replace")
    return notify_fields(found)


def plain_text(text: str, limit: int = MAX_TEXT) -> str:
    """Return *text* as one line of at most *limit* characters, without control characters."""
    return _CONTROL.sub(" ", text[:limit]).strip()


def _exactly(*values: str) -> Callable[[str], Optional[str]]:
    return lambda text: text if text in values else None


def _microseconds(text: str) -> Optional[str]:
    """Clamp a time to ``MAX_SECONDS``; None if it is not a number."""
    if not text.isascii() or not text.isdecimal():
        return None
    most = str(MAX_SECONDS * 1_000_000)
    digits = text.lstrip("0") or "0"
    return most if (len(digits), digits) > (len(most), most) else digits


def _check_address(text: str) -> Optional[str]:
    """Accept any short text: the master compares it with the address given to the worker."""
    return text if len(text) <= MAX_NAME and not _CONTROL.search(text) else None


NOTIFY_FIELDS: Dict[str, Callable[[str], Optional[str]]] = {
    "READY": _exactly("1"),
    "RELOADING": _exactly("1"),
    "STOPPING": _exactly("1"),
    "STATUS": plain_text,
    "WATCHDOG": _exactly("1", "trigger"),
    "WATCHDOG_USEC": _microseconds,
    "EXTEND_TIMEOUT_USEC": _microseconds,
    "X_CSERVICE_CHECK": _check_address,
}
"""The fields that the service uses or shows -> the function that checks each."""
_NOTIFY_NAMES = frozenset(name.encode("ascii") for name in NOTIFY_FIELDS)


def seconds_of(fields: Mapping[str, str], name: str) -> Optional[float]:
    """Return the time in field *name* of checked *fields*, in seconds; None if there is none."""
    text = _microseconds(fields.get(name, ""))
    return None if text is None else int(text) / 1e6
