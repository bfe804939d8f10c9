"""Text that cannot be seen is escaped wherever somebody's text is shown."""

from __future__ import annotations

import sys
import unicodedata
from typing import TYPE_CHECKING

import pytest

from cluster_service.cli import rendering
from cluster_service.commands import json_text
from cluster_service.guardian import log_output
from cluster_service.master import event_log
from cluster_service.server import audit

if TYPE_CHECKING:
    from collections.abc import Callable

JOINERS = "\u200c\u200d"
NEEDED = JOINERS + "".join(
    chr(code)
    for codes in (
        range(0x600, 0x606), (0x6DD, 0x70F), (0x890, 0x891, 0x8E2), (0x110BD, 0x110CD), range(0x13430, 0x13460),
    )
    for code in codes
)  # fmt: skip
UNSEEN = [
    char for code in range(sys.maxunicode + 1) if unicodedata.category(char := chr(code)) == "Cf" and char not in NEEDED
]
SHOW: dict[str, Callable[[str], str]] = {
    "the log": lambda text: log_output.clean(text.encode()).decode(),
    "a line": rendering.line,
    "a cell": rendering.clean,
    "JSON on a terminal": json_text.encode_for_terminal,
    "the master's log": lambda text: event_log.printable(text, 10_000),
    "the audit": audit._plain,
}


@pytest.mark.parametrize("show", SHOW)
def test_what_is_not_seen_is_escaped(show: str) -> None:
    for char in UNSEEN:
        assert char not in SHOW[show](f"a{char}b"), hex(ord(char))


@pytest.mark.parametrize("show", ["the log", "a line", "JSON on a terminal"])
def test_what_a_script_needs_stays(show: str) -> None:
    assert JOINERS in SHOW[show](f"a{JOINERS}b")
