"""Files of access keys: what they may hold, and what is said of those that are wrong, never what stands in them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from cluster_service.config import credentials
from cluster_service.config.credentials import Key
from cluster_service.errors import CommandError

if TYPE_CHECKING:
    from pathlib import Path

SECRET = "correct-horse-battery-staple"


def load(path: Path, text: str) -> tuple[Key, ...]:
    path.write_text(text)
    path.chmod(0o600)
    return credentials.load(str(path), "--access-key-file")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (SECRET, [("key1", SECRET)]),
        (f"# the old one\n{SECRET}\n\n# the new one\nanother\n", [("key1", SECRET), ("key2", "another")]),
        (f"{SECRET}\n{SECRET}\n", [("key1", SECRET)]),
        ("#x-is-no-comment\n", [("key1", "#x-is-no-comment")]),
        (f"[keys.ci]\nkey = '{SECRET}'\nallow = ['*']\n", [("ci", SECRET)]),
    ],
)
def test_files_of_keys(tmp_path: Path, text: str, found: list[tuple[str, str]]) -> None:
    assert [(key.name, key.secret) for key in load(tmp_path / "keys", text)] == found


def test_a_table_says_all(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("another\n")
    (tmp_path / "other").chmod(0o600)
    text = f"""
[keys.ci]
key = "{SECRET}"
allow = ["restart", "upgrade"]
from = "loopback"
[keys.other]
file = "other"
"""
    assert load(tmp_path / "keys", text) == (
        Key("ci", SECRET, ("restart", "upgrade"), loopback=True),
        Key("other", "another", ()),
    )
    warnings = credentials.warnings(load(tmp_path / "keys", text), beyond=False)
    assert [warning for warning in warnings if "other may do nothing" in warning]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds no access key"),
        (f"{SECRET}\x07", "holds no access key"),
        (f"[keys.ci]\nkey = '{SECRET}'\nalow = []", "knows no 'alow': did you mean 'allow'?"),
        (f"[keys.ci]\nkey = '{SECRET}", "is not valid TOML"),
        (f"[keys.'c i']\nkey = '{SECRET}'", "cannot name a key"),
        (f"[keys]\nci = '{SECRET}'", "is no table"),
        (f"[key.ci]\nkey = '{SECRET}'", "tables [keys.NAME]"),
        (f"[keys.ci]\nkey = '{SECRET}'\nfile = 'x'", "either key or file"),
        ("[keys.ci]\nallow = ['*']", "either key or file"),
        ("[keys.ci]\nfile = 'nosuch'", "No such file"),
        (f"[keys.ci]\nkey = '{SECRET}'\nallow = 'health'", "not a list of command names"),
        (f"[keys.ci]\nkey = '{SECRET}'\nallow = ['no such']", "not a list of command names"),
        (f"[keys.ci]\nkey = '{SECRET}'\nfrom = 'home'", "neither any nor loopback"),
        (f"[keys.ci]\nkey = '{SECRET}'\n[keys.cd]\nkey = '{SECRET}'", "the same key"),
        ("[keys.ci]\nkey = 5", "not printable text"),
        ("x" * 70_000, "longer than"),
    ],
)
def test_what_is_wrong_with_a_file(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(CommandError) as caught:
        load(tmp_path / "keys", text)
    assert words in caught.value.message
    assert SECRET not in caught.value.message + caught.value.hint


def test_short_keys_and_doors_that_others_can_reach() -> None:
    assert credentials.warnings([Key("a", "short", loopback=True)], beyond=True)
    with pytest.raises(CommandError, match="5 characters"):
        credentials.warnings([Key("a", SECRET), Key("b", "short")], beyond=True)
