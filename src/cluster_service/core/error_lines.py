"""Which of a program's last lines says why it ended.

The last line is often not the one: Node ends with its version, Rich with the lower border of a box, a Java or Rust
program with the frames of a stack, a program with a command-line library with its usage. The rules below are ordered
by how certain they are; the outputs that they were made from are in ``tests/core/output``.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

EXCERPT_LINES = 10
"""Lines that are kept of a longer output, with the one that tells among them."""
_BEFORE = 3
"""Of these, lines that come before the one that tells."""

_ERRORS = re.compile(
    r"""
      (?:Uncaught\ )?(?:[\w$]+[.:]+)*[\w$]*                              # Python, Node, a command line
          (?:Error|Exception|Rejection|Interrupt|ExceptionGroup)(?:\ \[\w+\])?(?::|\Z)
    | Exception\ in\ thread\ "[^"]*"\ [\w.$]+ | Caused\ by:\                # Java; the last cause is the root
    | panic:\ | fatal\ error:\                                              # Go
    | \S+:\d+:in\ [`'].*'?:\ .*\([A-Z][\w:]*\)\Z                            # Ruby
    | (?:PHP\ )?(?:Fatal|Parse)\ error:\                                    # PHP
    """,
    re.VERBOSE,
)
"""Lines by which a runtime reports what ended the program."""
_PYTHON_FRAME = re.compile(r'\s+File ".*", line \d+')
_RUST_PANIC = re.compile(r"(?:thread '.*' (?:\(\d+\) )?)?panicked at \S+:\d+:\d+:\Z")
_GROUP = re.compile(r"  [|+] ")
"""What Python puts before the lines of an ExceptionGroup, but not those of its parts, which have more."""
_BOX = re.compile(r"[│┃|]\s*(.*?)\s*[│┃|]\Z")
_FATAL = re.compile(r"\W*(?:\S+ ){0,4}\W*(?:FATAL|CRITICAL|EMERG|fatal|critical|emerg)\b")
"""A last line by which the program itself says what ended it."""
_NOISE = re.compile(
    r"""
      [\W_]*\Z                                                              # brackets, carets, borders of boxes
    | [╭╰┌└+]                                                               # a border with a title
    | \W*(?:INFO|DEBUG)\b | .*\[(?:INFO|DEBUG)\]
    | Node\.js\ v\d | Require\ stack:\Z | Emitted\ '.*'\ event
    | \s+at\ | \s+from\ | \.\.\.\ \d+\ more | \s+\d+:\ | \#\d+\ | \s+thrown\ in\  # frames of a stack
    | note:\ | stack\ backtrace: | Stack\ trace: | goroutine\ \d | exit\ status\ \d
    | (?:Usage|usage):\ | Try\ '.*\ --help' | For\ help
    | npm\ (?:error|ERR!)(?:\ \w+\Z|.*(?:complete\ log\ of\ this\ run|This\ is\ related\ to\ npm))
    """,
    re.VERBOSE,
)
"""Lines that never say why."""


def error_line(lines: Sequence[str]) -> str:
    """Return the line of *lines* that says why the program ended, without borders; empty if there is none."""
    at = error_index(lines)
    return "" if at is None else _bare(lines[at])


def error_index(lines: Sequence[str]) -> int | None:
    """Return the place of that line in *lines*."""
    plain = [at for at, line in enumerate(lines) if _bare(line) and not _NOISE.match(line)]
    if plain and _FATAL.match(_bare(lines[plain[-1]])):
        return plain[-1]
    certain = [at for at in range(len(lines)) if _is_certain(lines, at)]
    found = certain or plain
    return found[-1] if found else None


def excerpt(lines: Sequence[str], most: int = EXCERPT_LINES) -> list[str]:
    """Return at most *most* of *lines*: the last ones, unless the one that tells comes before them."""
    at = error_index(lines)
    start = max(0, len(lines) - most)
    if at is not None and at - _BEFORE < start:
        start = max(0, at - _BEFORE)
    return list(lines[start : start + most])


def _is_certain(lines: Sequence[str], at: int) -> bool:
    line = _GROUP.sub("", lines[at])
    if not line.strip() or line[0].isspace():
        return False
    return bool(_ERRORS.match(line)) or _ends_traceback(lines, at) or bool(at and _RUST_PANIC.match(lines[at - 1]))


def _ends_traceback(lines: Sequence[str], at: int) -> bool:
    """Return whether the first line that is not indented after the frames of a Python traceback is this one."""
    for each in reversed(lines[:at]):
        line = _GROUP.sub("", each)
        if line and not line[0].isspace():
            return False
        if _PYTHON_FRAME.match(line):
            return True
    return False


def _bare(line: str) -> str:
    """Return *line* without white space and the sides of a box."""
    line = line.strip()
    box = _BOX.match(line)
    return box[1] if box else _GROUP.sub("", f"  {line}").strip() if line.startswith("| ") else line
