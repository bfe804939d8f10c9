"""JSON from clients and for them: bounded, linear, and always JSON."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from typing import Any

import pytest

from cluster_service.commands import json_text
from cluster_service.commands.json_text import MAX_BYTES, MAX_DEPTH, MAX_DIGITS, encode_json, parse_json


@pytest.mark.parametrize(
    "text",
    [
        '{"a": [1, -2.5e3, true, null, "x\\u00e9\\ud83d\\ude00"]}',
        '"[[[[{{{{"',
        '"\\\\"',
        '"\\"[[["',
        "[" * MAX_DEPTH + "]" * MAX_DEPTH,
        "[" + "[]," * 1000 + "[]]",
        "9" * MAX_DIGITS,
    ],
)
def test_what_is_json_is_parsed(text: str) -> None:
    assert parse_json(text) == json.loads(text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("NaN", "NaN"),
        ("[-Infinity]", "Infinity"),
        ("1e999", "too large"),
        ("-1e999", "too large"),
        ("1." + "0" * 1000, "too large"),
        ("9" * (MAX_DIGITS + 1), "digits"),
        ("9" * 5000, "digits"),
        ('{"a": 1, "a": 2}', "twice"),
        ('{"a": {"b": 1, "b": 1}}', "twice"),
        ('"\\ud800"', "surrogate"),
        ('{"\\udfff": 1}', "surrogate"),
        ('"\ud800"', "surrogate"),
        ("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), "deeper"),
        ("[" * 100_000, "deeper"),
        ('{"a":' * 40_000, "deeper"),
        ('"' + "x" * MAX_BYTES + '"', "longer"),
        ("", "Expecting"),
        ("{", "Expecting"),
        ('"\n"', "control character"),
    ],
)
def test_what_is_not_or_too_much_is_refused(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_json(text)


@pytest.mark.parametrize("piece", ["[", "{", '"', "\\", '"\\', '{"a":', "1", "-", "[]", " {", '""', "\\u"])
def test_the_time_is_linear_in_the_length(piece: str) -> None:
    """A quadratic parser takes minutes for this, a linear one milliseconds: the deadline is generous."""
    text = piece * (MAX_BYTES // len(piece))
    began = time.process_time()
    with pytest.raises(ValueError, match=r"."):
        parse_json(text)
    assert time.process_time() - began < 2.0


def endless() -> list[Any]:
    inside: list[Any] = []
    inside.append(inside)
    return inside


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ({"a": 1.5, "b": None}, '{"a": 1.5, "b": null}'),
        ({"a": float("nan"), "b": [float("inf"), -1]}, '{"a": null, "b": [null, -1]}'),
        ("half \ud800 of", '"half \\ufffd of"'),
        ({"\udfff": "\ude00"}, '{"\\ufffd": "\\ufffd"}'),
        ("\U0001f600", '"\\ud83d\\ude00"'),
        ("\x00\x1b[2J\x7f\x9b\u2028", '"\\u0000\\u001b[2J\\u007f\\u009b\\u2028"'),
        ({(1, 2): "x", float("inf"): 1}, '{"(1, 2)": "x", "inf": 1}'),
        (datetime(2030, 1, 2, tzinfo=UTC), '"2030-01-02 00:00:00+00:00"'),
        ({"a": {1}}, '{"a": "{1}"}'),
    ],
)
def test_every_answer_is_json(data: Any, text: str) -> None:
    assert encode_json(data) == text


def test_what_does_not_end_is_cut() -> None:
    encoded = encode_json({"a": endless(), "b": 1})
    assert json.loads(encoded, parse_constant=pytest.fail)["b"] == 1


def test_what_people_read_cannot_steer_their_terminal() -> None:
    data = {
        "text": "\x1b[2J\x7f\x9b31m\u2028\u202e\u2066\n",
        "half": "a\ud800b",
        "smile": "\U0001f600é",
        "nan": float("nan"),
    }
    for indent in (None, 2):
        text = json_text.encode_for_terminal(data, indent=indent)
        assert all(char.isprintable() or char == "\n" for char in text)
        assert "\U0001f600é" in text
        assert json.loads(text) == {**data, "half": "a\ufffdb", "nan": None}
