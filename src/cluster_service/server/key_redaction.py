"""Removal of access keys from everything that is logged, audited or returned.

A client may send its key in the wrong place: the path, an argument, the name of a command. Every text that contains
client input passes through ``Redaction.text`` before it reaches the audit file, the log, an error message or an event.
The configured keys are recognized verbatim, percent-encoded and in Base64, and so are parts of them, since a message
may quote only the beginning of a text. Takes time linear in the length of the text.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_plus

if TYPE_CHECKING:
    from collections.abc import Iterable

HIDDEN = "(access key)"
WINDOW = 12
"""Number of consecutive characters by which a part of a key is recognized; shorter keys only as a whole."""
SHORTEST = 8
"""Minimum length of a key that is recognized: shorter ones occur in ordinary text."""
MAX_DECODINGS = 3
"""Maximum number of times a text is percent-decoded to find a key."""


class Redaction:
    """Removes *keys* from texts."""

    def __init__(self, keys: Iterable[str] = ()) -> None:
        forms = {form for key in keys for form in _forms(key)}
        self._windows: dict[int, set[str]] = {}
        for form in forms:
            size = min(WINDOW, len(form))
            windows = (form[start : start + size] for start in range(len(form) - size + 1))
            self._windows.setdefault(size, set()).update(windows)

    def __repr__(self) -> str:
        """Return ``<Redaction>``, without the keys."""
        return "<Redaction>"

    def holds(self, text: str) -> bool:
        """Return True if *text* contains a key or a part of one."""
        return any(self._spans(text)) or self._is_encoded(text)

    def text(self, text: str) -> str:
        """Return *text* with every key replaced. If a key is percent-encoded, the whole text is replaced."""
        if not self._windows:
            return text
        shown, end = [], 0
        for start, stop in _merged(self._spans(text)):
            shown += [text[end:start], HIDDEN]
            end = stop
        found = "".join([*shown, text[end:]])
        return HIDDEN if self._is_encoded(found) else found

    def value(self, value: Any) -> Any:
        """Return the JSON value *value* with every text in it redacted, including names."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {self.text(str(name)): self.value(item) for name, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.value(item) for item in value]
        return value

    def anywhere(self, value: Any) -> bool:
        """Return True if any text in the JSON value *value* contains a key."""
        if isinstance(value, str):
            return self.holds(value)
        if isinstance(value, dict):
            return any(self.holds(str(name)) or self.anywhere(item) for name, item in value.items())
        return isinstance(value, (list, tuple)) and any(map(self.anywhere, value))

    def _spans(self, text: str) -> list[tuple[int, int]]:
        """Return the positions of key windows in *text*, sorted."""
        return sorted(
            (start, start + size)
            for size, windows in self._windows.items()
            for start in range(len(text) - size + 1)
            if text[start : start + size] in windows
        )

    def _is_encoded(self, text: str) -> bool:
        for _ in range(MAX_DECODINGS):
            if "%" not in text and "+" not in text:
                return False
            decoded = unquote_plus(text)
            if decoded == text:
                return False
            text = decoded
            if self._spans(text):
                return True
        return False


def _merged(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for start, stop in spans:
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(stop, merged[-1][1]))
        else:
            merged.append((start, stop))
    return merged


def _forms(key: str) -> set[str]:
    """Return the forms of *key* in a text: verbatim, quoted by ``repr``, and in Base64."""
    if len(key) < SHORTEST:
        return set()
    return {key, repr(key)[1:-1], *_base64(key.encode("utf-8", "surrogatepass"))}


def _base64(data: bytes) -> set[str]:
    """Return the Base64 characters that encode *data* for any preceding bytes (such as ``user:`` of Basic)."""
    forms = set()
    for before in range(3):
        text = base64.b64encode(b"\0" * before + data).decode()
        whole = text[-(-before * 8 // 6) : (before + len(data)) * 8 // 6]
        forms |= {whole, whole.replace("+", "-").replace("/", "_")}
    return {form for form in forms if len(form) >= WINDOW}
