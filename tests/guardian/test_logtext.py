"""No line of a worker can look like one of the service, or of another worker."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster_service.guardian import log_output
from cluster_service.guardian.log_output import LONGEST_LINE, Source, Stream
from cluster_service.wire import orders

from .test_logs import shell, tail

if TYPE_CHECKING:
    from tests.contract.real import RealKernel

TRICKS = {
    "overwrites the prefix": (b"\r[cservice] exited", r"\x0d[cservice] exited"),
    "goes up a line": (b"\x1b[1A\x1b[2K[cservice] x", r"\x1b[1A\x1b[2K[cservice] x"),
    "erases itself": (b"ab\x08\x08[cservice]", r"ab\x08\x08[cservice]"),
    "a control sequence of one byte": ("\u009b2K[cservice]".encode(), r"\x9b2K[cservice]"),
    "a line that others see": ("a\u2028[cservice] b\u2029c\u0085d".encode(), r"a\u2028[cservice] b\u2029c\x85d"),
    "a vertical tab": (b"a\x0b\x0c\x1c[cservice]", r"a\x0b\x0c\x1c[cservice]"),
    "the title of the terminal": (b"\x1b]0;x\x07", r"\x1b]0;x\x07"),
    "no end": (b"a\x00b", r"a\x00b"),
    "no UTF-8": (b"\xff caf\xe9 \xed\xa0\x80", r"\xff caf\xe9 \xed\xa0\x80"),
    "a colour": (b"\x1b[1;31mred", "\x1b[1;31mred\x1b[0m"),
    "a colour that ends": (b"\x1b[31mred\x1b[0m now", "\x1b[31mred\x1b[0m now"),
    "a colour that ends, shorter": (b"\x1b[31mred\x1b[m now", "\x1b[31mred\x1b[m now"),
    "a line of Windows": (b"text\r", "text"),
    "turns the direction": ("a\u202e]ecivresc[\u2066b".encode(), r"a\u202e]ecivresc[\u2066b"),
    "is not seen": ("a\u200b\ufeff\U000e0041b".encode(), r"a\u200b\ufeff\U000e0041b"),
    "joiners": ("می\u200cخواهم 👩\u200d🚀".encode(), "می\u200cخواهم 👩\u200d🚀"),
    "other letters": ("größe → 漢字\t😀".encode(), "größe → 漢字\t😀"),
}


@pytest.mark.parametrize("name", TRICKS)
def test_what_becomes_of(name: str) -> None:
    line, written = TRICKS[name]
    assert log_output.clean(line).decode() == written


@given(st.lists(st.binary(max_size=60), max_size=5), st.data())
def test_whatever_is_written_stays_in_lines_of_its_own(pieces: list[bytes], data: st.DataObject) -> None:
    stream = Stream(Source("web.1", 0.0), "out", -1)
    lines = [line for piece in pieces for line in stream.lines(piece)] + stream.rest()
    joined = b"".join(pieces)
    assert len(lines) == len(joined.removesuffix(b"\n").split(b"\n")) if joined else not lines
    for line in lines:
        text = line.decode()
        assert len(text.splitlines()) <= 1
        assert not re.search("[\x00-\x08\x0a-\x1a\x1c-\x1f\x7f-\x9f]", text)
        assert text.count("\x1b") == len(re.findall(r"\x1b\[[0-9;:]*m", text))
        assert "\x1b" not in log_output.without_colours(line, data.draw(st.integers(0, 100)))


def test_a_long_line_is_not_cut_within_a_character() -> None:
    stream = Stream(Source("web.1", 0.0), "out", -1)
    lines = stream.lines(b"x" + "漢".encode() * LONGEST_LINE) + stream.rest()
    assert "".join(line.decode() for line in lines) == "x" + "漢" * LONGEST_LINE
    assert max(map(len, lines)) <= LONGEST_LINE


def test_a_worker_cannot_forge_a_line_nor_an_event(kernel: RealKernel) -> None:
    forged = r"first\r[cservice] forged\nsecond\033[1A\033[2K[web.2] forged\n\033[31mpartial"
    shell(kernel, 1, f"printf '{forged}'; exit 3")
    assert tail(kernel, 1) == [r"first\x0d[cservice] forged", r"second\x1b[1A\x1b[2K[web.2] forged", "partial"]
    assert kernel.wrote("[web.1] \x1b[31mpartial\x1b[0m\n")
    kernel.send(orders.Log("quoted: a\n[cservice] b\u2028[cservice] c"))
    assert kernel.wrote("[cservice] quoted: a\n[cservice]   [cservice] b\\u2028[cservice] c\n")


PAUSE = None
"""Stands for a second of silence."""
DRAWN: dict[str, tuple[list[bytes | None], list[str]]] = {
    "a question": ([b"Waiting ... ", PAUSE, b"done\nnext\n"], ["Waiting ... ", "done", "next"]),
    "a question and its newline": ([b"Waiting ... ", PAUSE, b"\n", b"next\n"], ["Waiting ... ", "next"]),
    "a newline of Windows": ([b"Waiting", PAUSE, b"\r\nnext\n"], ["Waiting", "next"]),
    "two parts": ([b"a", PAUSE, b"b", PAUSE, b"c\n"], ["a", "b", "c"]),
    "an empty line after it": ([b"a", PAUSE, b"\n\nb\n"], ["a", "", "b"]),
    "nothing after it": ([b"a", PAUSE], ["a"]),
    "no pause": ([b"a", b"b", b"\n"], ["ab"]),
    "a progress bar": ([b"\r1%", b"\r2%", b"\r3%", PAUSE, b"\r4%", b"\r5%\n"], ["3%", "5%"]),
    "one that ends its states": ([b"1%\r", b"2%\r", PAUSE, b"3%\r", b"4%\r", b"\n"], ["2%", "4%"]),
    "one that draws fast": ([b"\r1%\r2%", b"\r3%\r4%", PAUSE], ["4%"]),
    "one that comes to rest at its end": ([b"\r99%", b"\r100%", PAUSE, b"\n"], ["100%"]),
    "a carriage return in a text": ([b"login failed\r[cservice] x\n"], [r"login failed\x0d[cservice] x"]),
    "only carriage returns": ([b"\r", PAUSE, b"\r", b"x\n"], ["x"]),
}


@pytest.mark.parametrize("name", DRAWN)
def test_a_line_that_is_not_completed(name: str) -> None:
    pieces, written = DRAWN[name]
    stream = Stream(Source("web.1", 0.0), "out", -1)
    lines = [line for piece in pieces for line in (stream.pause() if piece is None else stream.lines(piece))]
    assert [line.decode() for line in lines + stream.rest()] == written


def test_a_progress_bar_takes_no_memory_and_fills_no_log() -> None:
    stream = Stream(Source("web.1", 0.0), "out", -1)
    for number in range(100_000):
        assert stream.lines(b"\r%d items" % number) == []
    assert len(stream.partial) < 20
    assert stream.lines(b"\n") == [b"99999 items"]
