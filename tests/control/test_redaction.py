"""An access key in the wrong place is recognised, whatever it looks like there."""

from __future__ import annotations

import base64
import json
import time
from urllib.parse import quote, quote_plus

import pytest

from cluster_service.server import audit
from cluster_service.server.access import Knock
from cluster_service.server.key_redaction import HIDDEN, SHORTEST, WINDOW, Redaction

KEY = "correct horse+battery/staple&42"


def every_letter_encoded(text: str) -> str:
    return "".join(f"%{byte:02x}" for byte in text.encode())


@pytest.mark.parametrize(
    "text",
    [
        KEY,
        f"restart {KEY}",
        f"{KEY}{KEY}",
        quote(KEY, safe=""),
        quote(KEY, safe="").lower(),
        quote_plus(KEY),
        quote(quote(KEY, safe=""), safe=""),
        every_letter_encoded(KEY),
        f"/api/v1/commands/restart&accessKey={quote(KEY)}",
        base64.b64encode(KEY.encode()).decode(),
        base64.urlsafe_b64encode(KEY.encode()).decode().rstrip("="),
        *("Basic " + base64.b64encode(f"{user}:{KEY}".encode()).decode() for user in ("", "a", "ab", "abc")),
        KEY[: WINDOW + 1] + "...",
        "..." + KEY[-WINDOW:],
        json.dumps({"a": [KEY]}),
    ],
)
def test_a_key_is_hidden(text: str) -> None:
    redaction = Redaction([KEY, "another key of some length"])
    shown = redaction.text(text)
    assert HIDDEN in shown
    assert redaction.holds(text)
    for start in range(len(KEY) - WINDOW + 1):
        assert KEY[start : start + WINDOW] not in shown
    assert redaction.value({text: [text]}) == {shown: [shown]}
    assert redaction.anywhere({"a": [1, {"b": text}]})
    assert redaction.anywhere({text: 1})


@pytest.mark.parametrize("text", ["", "restart all", "correct hor", "100 % of a+b", "%zz", "/srv/app/worker.py"])
def test_nothing_else_is_hidden(text: str) -> None:
    redaction = Redaction([KEY, "short"[:SHORTEST]])
    assert redaction.text(text) == text
    assert not redaction.anywhere([text, 1, None])
    assert KEY not in repr(redaction)


def test_the_time_is_linear_in_the_length() -> None:
    redaction = Redaction([KEY])
    for text in ("%25" * 80_000, "a" * 256_000, KEY[:-1] * 8_000, "+" * 256_000):
        began = time.process_time()
        redaction.text(text)
        assert time.process_time() - began < 5.0


def test_an_audit_entry_holds_no_key() -> None:
    redaction = Redaction([KEY])
    knock = Knock("tcp", "127.0.0.1")
    for command, given in (
        (f"POST /api/v1/commands/restart&accessKey={quote(KEY)}", {}),
        (KEY, {}),
        ("restart", {"selector": KEY, KEY: "x"}),
        ("restart", {"selector": "x" * (audit.LONGEST - 10) + KEY}),
        ("help", {"command": "x" * (audit.LONGEST_READ - 10) + KEY}),
        ("greet", {KEY: KEY}),
    ):
        line = audit.line(audit.entry(knock, None, command, given, "done", 0.0, redaction))
        assert KEY[:WINDOW] not in line
        assert quote(KEY)[:WINDOW] not in line


def test_an_audit_entry_of_a_long_argument_costs_little() -> None:
    began = time.process_time()
    audit.entry(Knock("tcp", "127.0.0.1"), None, "help", {"command": "a" * 256_000}, "done", 0.0, Redaction([KEY]))
    assert time.process_time() - began < 1.0
