"""Redaction of secrets wherever a configuration is shown: replies, plans, steps, events and logs.

A value is hidden because of its name (``--db-password hunter2``, ``TOKEN=…``, ``?api_key=…``) or its place in a URL
(``postgres://ann:hunter2@db``). This prevents accidental display; it is no security boundary. A secret with another
name is shown, and the arguments of a program are visible in the process list anyway. Callers hide the values of
environment variables whatever their names.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

HIDDEN = "(secret)"

_WORDS = "key|secret|token|pass|passwd|password|passphrase|pwd|credential|credentials|auth|dsn|cookie|private|salt"
_NAME = re.compile(rf"(?:\A|[^A-Za-z])[A-Za-z]*?(?:{_WORDS})s?(?:\Z|[^A-Za-z])", re.IGNORECASE)
_CAMEL_CASE = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_URL_PASSWORD = re.compile(r"(\w[\w+.-]{0,30}://[^/\s:@]*):[^/\s@]+@")
"""The password in ``postgres://ann:password@db``."""
_PAIR = re.compile(r"(-*[\w.-]+)=.*\Z", re.DOTALL)
_URL_FIELD = re.compile(r"([?&;])([\w.-]+)=([^&;#\s]+)")
"""A field such as ``?token=abc``, in a URL or a path."""


def is_secret(name: str) -> bool:
    """Return whether *name* is the name of a secret: ``API_KEY``, ``db-password``, ``authToken``."""
    return _NAME.search(_CAMEL_CASE.sub("-", name)) is not None


def redact_text(shown: str) -> str:
    """Return *shown* with the passwords and secret fields of its URLs hidden."""
    shown = _URL_PASSWORD.sub(rf"\1:{HIDDEN}@", shown)
    return _URL_FIELD.sub(
        lambda found: found[0] if not is_secret(found[2]) else f"{found[1]}{found[2]}={HIDDEN}", shown
    )


def redact_arguments(words: Sequence[str]) -> list[str]:
    """Return the arguments of a program, with the values of secret options hidden."""
    shown: list[str] = []
    hide_next = False
    for word in words:
        pair = _PAIR.match(word)
        option = word.startswith("-")
        if hide_next and not option:
            shown.append(HIDDEN)
        elif pair is not None and is_secret(pair[1]):
            shown.append(f"{pair[1]}={HIDDEN}")
        else:
            shown.append(redact_text(word))
        hide_next = option and pair is None and is_secret(word)
    return shown
