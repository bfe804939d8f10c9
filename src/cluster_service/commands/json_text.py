"""JSON at the endpoints: one parser for what clients send, one encoder for what they receive.

Parsing takes time linear in the length, and limits the depth and the size of numbers. Every answer is printable ASCII:
control characters are escaped, NaN and Infinity become null, and a lone surrogate becomes U+FFFD.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, NoReturn

from cluster_service.wire.validation import IN_CLASS

MAX_BYTES = 256 * 1024
"""Maximum length of a JSON text from a client, in characters."""
MAX_DEPTH = 32
"""Maximum nesting depth of objects and arrays."""
MAX_DIGITS = 40
"""Maximum length of an integer, in characters: more than any count, pid, port, time or size needs."""

_BRACKETS = re.compile(r'"(?:[^"\\]|\\.)*+"?|[\[{]|[\]}]', re.DOTALL)
_STEERS = re.compile("[\x7f-\x9f\u2028\u2029" + IN_CLASS + "]")
_SURROGATE = re.compile("[\ud800-\udfff]")


def parse_json(text: str) -> Any:
    """Parse *text* and return its value. Raises ValueError with the reason."""
    if len(text) > MAX_BYTES:
        raise ValueError(f"it is longer than {MAX_BYTES} characters")
    _check_depth(text)
    try:
        value = json.loads(
            text, object_pairs_hook=_unique_names, parse_constant=_no_number, parse_int=_integer, parse_float=_float
        )
    except RecursionError:
        raise ValueError(f"it is nested deeper than {MAX_DEPTH} levels") from None
    if "\\u" in text or _SURROGATE.search(text):
        _check_surrogates(value)
    return value


def encode_json(data: Any) -> str:
    """Return *data* as one line of printable ASCII JSON. Never fails: values without a JSON form are replaced."""
    try:
        text = json.dumps(data, default=str, allow_nan=False)
    except (ValueError, TypeError, RecursionError):
        text = json.dumps(_cleaned(data, MAX_DEPTH))
    if "\\ud" in text:  # an escaped surrogate: half of a pair, or alone
        text = json.dumps(_cleaned(json.loads(text), None))
    return text


def encode_for_terminal(data: Any, *, indent: int | None = None) -> str:
    """Return *data* as JSON for people: with letters of all scripts, but with control characters escaped."""
    text = json.dumps(json.loads(encode_json(data)), ensure_ascii=False, indent=indent)
    return _STEERS.sub(lambda found: json.dumps(found.group())[1:-1], text)  # these only occur within strings


def _cleaned(value: Any, depth: int | None) -> Any:
    """Return *value* in JSON types, nested at most *depth* deep; None: unlimited."""
    if isinstance(value, str):
        return _SURROGATE.sub("\ufffd", value)
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if depth == 0:
        return "..."
    deeper = None if depth is None else depth - 1
    if isinstance(value, dict):
        return {_cleaned(str(name), None): _cleaned(item, deeper) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_cleaned(item, deeper) for item in value]
    return _cleaned(str(value), None)


def _check_depth(text: str) -> None:
    depth = 0
    for match in _BRACKETS.finditer(text):
        mark = match[0]
        if mark in "[{":
            depth += 1
            if depth > MAX_DEPTH:
                raise ValueError(f"it is nested deeper than {MAX_DEPTH} levels")
        elif mark in "]}":
            depth -= 1


def _check_surrogates(value: Any) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError("a text holds half a surrogate pair") from None


def _unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build an object. Raises ValueError for a duplicate name, because parsers differ in which value they use."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands twice in one object")
    return found


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


def _integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"a number has more than {MAX_DIGITS} digits")
    return int(digits)


def _float(digits: str) -> float:
    number = float(digits)
    if len(digits) > 10 * MAX_DIGITS or not math.isfinite(number):
        raise ValueError("a number is too large")
    return number
