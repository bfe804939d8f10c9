r"""Sanitizing of worker output for the log: every line, tail and partial line passes through here.

A worker's line can neither start another line nor move or erase the text before it, so it cannot pass for a line of the
service or of another worker: its prefix always stands at the beginning.

- Tabs, printable characters and colours (SGR sequences, ``ESC [ ... m``) are kept. Colours end with the line.
- Every other control character is written as an escape: a carriage return as ``\x0d``, ESC as ``\x1b``. So are the C1
  controls (U+0080 to U+009F), the line separators U+2028 and U+2029, and invisible characters that reorder or hide
  others (``wire/unseen``). A carriage return at the end of a line is removed.
- Bytes that are not UTF-8 are written as escapes too: the log is always valid UTF-8.
"""

from __future__ import annotations

import re

from cluster_service.wire.unseen import IN_CLASS

_PLAIN = bytes([9, 10, *range(32, 127)])
_RESET = "\x1b[0m"
_SGR = r"\x1b\[[0-9;:]{0,64}m"
_SPECIAL = re.compile(_SGR + "|[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029" + IN_CLASS + "]")
_COLOUR = re.compile(_SGR)


def is_plain(text: bytes) -> bool:
    """Return whether *text*, of one or more lines, is printable ASCII: ``clean`` would change nothing."""
    return not text.translate(None, _PLAIN)


def clean(line: bytes) -> bytes:
    """Return *line*, which has no newline, in a form that is safe for the log."""
    if is_plain(line):
        return line
    text = _SPECIAL.sub(_escape, line.removesuffix(b"\r").decode("utf-8", "backslashreplace"))
    if text.rfind("\x1b") > max(text.rfind(_RESET), text.rfind("\x1b[m")):
        text += _RESET
    return text.encode()


def without_colours(line: bytes, limit: int) -> str:
    """Return a clean line as text of at most *limit* characters without any escape sequence."""
    return _COLOUR.sub("", line.decode("utf-8", "ignore"))[:limit]


def boundary(line: bytes, limit: int) -> int:
    """Return where to cut *line*, at most *limit* bytes, without splitting a character."""
    for cut in range(limit, limit - 4, -1):
        if line[cut] & 0xC0 != 0x80:
            return cut
    return limit


def _escape(match: re.Match[str]) -> str:
    found = match[0]
    if len(found) > 1:
        return found
    code = ord(found)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
