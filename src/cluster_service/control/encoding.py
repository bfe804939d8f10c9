"""The JSON that leaves the service, at every endpoint and on the terminal: one encoder.

Whatever a worker or a user's command put into it, the text is valid JSON for strict readers, and holds no character
that could steer a terminal or break a line.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

_STEERS = re.compile("[\x7f-\x9f\u2028-\u202e\u2060-\u2069]")
_NOT_ASCII = re.compile("[^\x00-\x7e]")
_SURROGATE = re.compile("[\ud800-\udfff]")


def dumps(data: Any, *, indent: int | None = None, ascii_only: bool = True) -> str:
    """Return *data* as JSON. Numbers that are not finite become null, halves of surrogate pairs U+FFFD."""
    try:
        text = json.dumps(data, ensure_ascii=False, allow_nan=False, default=str, indent=indent)
    except ValueError:  # NaN or an infinity
        text = json.dumps(_finite(data), ensure_ascii=False, allow_nan=False, default=str, indent=indent)
    text = _SURROGATE.sub("\N{REPLACEMENT CHARACTER}", text)
    # All of these can only stand within strings.
    return (_NOT_ASCII if ascii_only else _STEERS).sub(lambda found: json.dumps(found.group())[1:-1], text)


def _finite(data: Any) -> Any:
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if isinstance(data, dict):
        return {_finite_key(key): _finite(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [_finite(value) for value in data]
    return data


def _finite_key(key: Any) -> Any:
    return str(key) if isinstance(key, float) else key
