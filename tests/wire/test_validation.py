"""The limits on what a worker sends: whatever it is, it is a message within its limits, or ``Invalid``."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster_service.wire import framing, validation, worker_protocol
from cluster_service.wire.validation import Invalid

DAY = str(validation.MAX_SECONDS * 1_000_000)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"[" * 60_000, "nested"),
        (b'{"a":' * 10_000, "nested"),
        (b"[" * 65 + b"]" * 65, "nested"),
        (b"[" * 65 + b"]" * 64, "not JSON"),
        (b"[" * 40 + b"]" * 20, "not JSON"),
        (b"]" * 70 + b"[" * 60, "not JSON"),
        (b"[" + b"[" * 64 + b"]" * 64 + b"]", "nested"),
        (b'[{"a":' * 33 + b"1" + b"}]" * 33, "nested"),
        (b"1" * 400, "64 bits"),
        (b"18446744073709551616", "64 bits"),
        (b"-18446744073709551616", "64 bits"),
        (b"1e999", "not finite"),
        (b"-1e999", "not finite"),
        (b"9" * 400 + b".0", "not finite"),
        (b"NaN", "not finite"),
        (b"[Infinity]", "not finite"),
        (b'"\xff"', "UTF-8"),
        (b'"\xed\xa0\x80"', "UTF-8"),
        (b"\xff\xfe1\x00", "UTF-8"),
        (b"", "not JSON"),
        (b'"a', "not JSON"),
        (b'"' + b"\\" * 60_000, "not JSON"),
        (b'"' + b"x" * 65_536 + b'"', "longer"),
    ],
)
def test_what_no_reader_should_have_to_bear(data: bytes, reason: str) -> None:
    with pytest.raises(Invalid, match=reason):
        validation.loads(data)


@pytest.mark.parametrize(
    "value",
    [
        "[" * 1000,
        {"a": ["}" * 70, {"b": [None, True, 1.5, -1, 2**64 - 1]}]},
        "\U0001f600 \\ud800",
        [[]] * 5000,
        [[[{}] * 5] * 10] * 50,
        eval("[" * 64 + "]" * 64),  # noqa: S307 - of 64 levels
        1e308,
    ],
)
def test_what_is_within_the_limits_comes_through(value: Any) -> None:
    assert validation.loads(json.dumps(value).encode()) == value
    assert validation.loads(json.dumps(value, ensure_ascii=False).encode()) == value


def test_half_a_surrogate_pair_is_replaced() -> None:
    read = validation.loads(b'{"\\ud800": ["a\\udfffb", "\\ud83d\\ude00"]}')
    assert read == {"\ufffd": ["a\ufffdb", "\U0001f600"]}
    json.dumps(read, ensure_ascii=False).encode()


@given(st.binary(max_size=300))
def test_any_bytes_are_a_message_or_invalid(data: bytes) -> None:
    try:
        message = worker_protocol.decode(data)
    except worker_protocol.ChannelError:
        return
    json.dumps(message, allow_nan=False, ensure_ascii=False).encode()


VALUES = [None, True, 0, -1.5, "", "4711.1", "x" * 81, "\x1b[2J", "web", [], ["x"], {}, {"READY": "1", "x": 1}]
NAMES = ["id", "ready", "fields", "name", "args", "options", "message", "group", "taken"]


@given(
    st.sampled_from(["ready", "notify", "trigger", "broadcast", "got"]),
    st.dictionaries(st.sampled_from(NAMES), st.sampled_from(VALUES)),
)
def test_each_type_has_the_fields_that_its_readers_rely_on(kind: str, fields: dict[str, Any]) -> None:
    try:
        message = validation.message({**fields, "type": kind})
    except Invalid:
        assert kind in ("trigger", "broadcast", "got")
        assert fields.get("id") not in ("4711.1", "web")
        return
    assert isinstance(message.get("ready", True), bool)
    assert isinstance(message.get("taken", True), bool)
    assert isinstance(message.get("fields", {}), dict)
    assert isinstance(message.get("args") or [], list)
    assert isinstance(message.get("options") or {}, dict)
    for name in ("name", "group"):
        assert message.get(name) is None or len(message[name]) <= validation.MAX_NAME + 1
    assert validation.message(message) == message  # the master's turn


def test_the_fields_of_sd_notify_are_bounded() -> None:
    data = b"\n".join(
        [
            b"EXTEND_TIMEOUT_USEC=" + b"9" * 400,
            b"WATCHDOG_USEC=-1",
            b"STATUS=one\x1b[31m\r two\xff" + b"x" * 5000,
            b"READY=yes",
            b"WATCHDOG=trigger",
            b"MAINPID=1",
            b"X_CSERVICE_CHECK=" + b"x" * 200,
            *(b"X_%d=1" % number for number in range(2000)),
        ]
    )
    fields = validation.parse_notify(data)
    assert sorted(fields) == ["EXTEND_TIMEOUT_USEC", "STATUS", "WATCHDOG"]
    assert fields["EXTEND_TIMEOUT_USEC"] == DAY
    assert fields["STATUS"].startswith("one [31m  two\ufffdx")
    assert len(fields["STATUS"]) <= validation.MAX_TEXT
    assert validation.notify_fields(fields) == fields  # the master's turn
    with pytest.raises(Invalid):
        validation.parse_notify(b"x" * 70_000)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0", 0.0), ("1500000", 1.5), (DAY, 86400.0), ("9" * 400, 86400.0), ("0" * 400 + "1", 1e-6)],
)
def test_times_are_clamped_to_a_day(text: str, seconds: float) -> None:
    assert validation.seconds_of({"X": text}, "X") == seconds


@pytest.mark.parametrize("text", ["", "-1", "1.5", "x", "\u0661", "1e9", "\u00b2"])
def test_what_is_no_time(text: str) -> None:
    assert validation.seconds_of({"X": text}, "X") is None


def test_a_frame_that_cannot_be_decoded_costs_no_other() -> None:
    whole = framing.encode({"type": "exited", "worker": 1})
    bad = [b"[" * 60_000, b"[1]", b"\xff", b"{"]
    data = whole + b"".join(len(body).to_bytes(4, "big") + body for body in bad) + whole
    decoder = framing.Decoder()
    assert len(list(decoder.feed(data))) == 2
    assert decoder.rejected == len(bad)


def test_messages_before_what_is_no_frame_are_delivered() -> None:
    messages = framing.Decoder().feed(framing.encode({"type": "exited"}) + b"\xff" * 8)
    assert next(messages) == {"type": "exited"}
    with pytest.raises(framing.FrameError):
        next(messages)
