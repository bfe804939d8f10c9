"""Exceptions to lint rules are few, and each one has its reason."""

from __future__ import annotations

import io
import re
import tokenize
from pathlib import Path

ROOT = Path(__file__).parent.parent
FOLDERS = ("src", "tests", "docs", "examples", "benchmarks")
LIMIT = 90
"""Maximum number of noqa comments. If many files need the same one, declare it in pyproject.toml, with the reason."""

NOQA = re.compile(r"# noqa\b")
WITH_REASON = re.compile(r"# noqa: [A-Z]+\d+(?:, [A-Z]+\d+)* - \S")
EXCEPTION = re.compile(r'^\s*"[A-Z]+\d+",?(?=\s|$)|= \["[A-Z]')


def exceptions() -> list[str]:
    """Return the noqa comments of all Python files, with their file and line."""
    files = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
    return [
        f"{path.relative_to(ROOT)}:{token.start[0]}: {token.string}"
        for path in files
        for token in tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline)
        if token.type == tokenize.COMMENT and NOQA.search(token.string)
    ]


def test_exceptions_in_files_are_few_and_have_a_reason() -> None:
    found = exceptions()
    assert [each for each in found if not WITH_REASON.search(each)] == []
    assert len(found) <= LIMIT


def test_exceptions_for_many_files_have_a_reason() -> None:
    lint = (ROOT / "pyproject.toml").read_text(encoding="utf-8").partition("\nselect = ")[2]
    lines = [line for line in lint.splitlines()[1:] if EXCEPTION.search(line)]
    assert len(lines) > 40
    assert [line for line in lines if " # " not in line] == []
