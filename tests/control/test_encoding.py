"""JSON that leaves the service: valid for strict readers, and harmless to a terminal, whatever is in it."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from cluster_service.control import encoding


def strict(text: str) -> Any:
    def refuse(name: str) -> None:
        raise AssertionError(name)

    return json.loads(text, parse_constant=refuse)


@pytest.mark.parametrize("ascii_only", [True, False])
def test_what_workers_and_commands_may_hold(ascii_only: bool) -> None:
    data = {
        "numbers": [math.nan, (math.inf, -math.inf)],
        math.nan: 1,
        "half": "a\ud800b",
        "steers": "\x1b[2J\x7f\x9b31m\u2028\u202e\u2066\n",
        "smile": "\U0001f600é",
        "path": object,
    }
    text = encoding.dumps(data, ascii_only=ascii_only)
    text.encode()
    assert text.isascii() or not ascii_only
    assert all(char.isprintable() for char in text)
    read = strict(text)
    assert read["numbers"] == [None, [None, None]]
    assert read["half"] == "a\ufffdb"
    assert read["steers"] == data["steers"]
    assert read["smile"] == data["smile"]
