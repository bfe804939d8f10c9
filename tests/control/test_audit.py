"""What the audit log holds of a command, and what it does not."""

from __future__ import annotations

import json

from cluster_service.server import audit
from cluster_service.server.access import Admission, Knock

KNOCK = Knock("tcp", "127.0.0.1")


def test_an_entry_is_one_line_whatever_was_sent() -> None:
    entry = audit.entry(KNOCK, None, "a\nb\x1b[2J\u202e\x7f", {"selector": "\r\nfoo\u2028"}, "bad_request", 0.5)
    line = audit.line(entry)
    assert line.isascii()
    assert line.isprintable()
    assert json.loads(line)["command"] == "a\\nb\\x1b[2J\\u202e\\x7f"


def test_arguments_that_may_hold_secrets_are_left_out() -> None:
    admission = Admission("ci", "local")
    start = audit.entry(
        KNOCK, admission, "start", {"target": "x.py", "env": ["PASSWORD=1"], "args": ["-p1"]}, "done", 0
    )
    assert start["arguments"] == {"target": "x.py", "env": "...", "args": "..."}
    custom = audit.entry(KNOCK, admission, "login", {"password": "1"}, "done", 0)
    assert custom["arguments"] == {"password": "..."}
    assert (start["key"], start["door"], start["peer"], start["outcome"]) == ("ci", "tcp", "127.0.0.1", "done")


def test_long_arguments_are_cut() -> None:
    entry = audit.entry(KNOCK, None, "restart", {"selector": "x" * 10_000}, "done", 0)
    assert len(entry["arguments"]["selector"]) == audit.LONGEST
