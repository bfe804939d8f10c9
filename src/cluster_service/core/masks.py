"""What is not said aloud, wherever a configuration is shown: in replies, plans, steps, events, logs. Pure.

A value is hidden by the name that it goes under (``--db-password hunter2``, ``TOKEN=…``, ``?api_key=…``) and by its
place in a URL (``postgres://ann:hunter2@db``). That is a courtesy to the eye and no wall: a secret that goes under no
such name is shown, and whatever is in a program's arguments can be read in the process list anyway. Variables of the
environment are hidden whatever their name, by whoever shows them.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

HIDDEN = "(secret)"

_WORDS = "key|secret|token|pass|passwd|password|passphrase|pwd|credential|credentials|auth|dsn|cookie|private|salt"
_NAME = re.compile(rf"(?:\A|[^A-Za-z])[A-Za-z]*?(?:{_WORDS})s?(?:\Z|[^A-Za-z])", re.IGNORECASE)
_HUMPS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_USER = re.compile(r"(\w[\w+.-]{0,30}://[^/\s:@]*):[^/\s@]+@")
"""``postgres://ann:password@db``."""
_PAIR = re.compile(r"(-*[\w.-]+)=.*\Z", re.DOTALL)
_FIELD = re.compile(r"([?&;])([\w.-]+)=([^&;#\s]+)")
"""``?token=abc``, in a URL or a path."""


def is_secret(name: str) -> bool:
    """Whether what goes under *name* is likely to be nobody's business: ``API_KEY``, ``db-password``, ``authToken``."""
    return _NAME.search(_HUMPS.sub("-", name)) is not None


def text(shown: str) -> str:
    """Return *shown* without the passwords and the secret fields of the URLs in it."""
    shown = _USER.sub(rf"\1:{HIDDEN}@", shown)
    return _FIELD.sub(lambda found: found[0] if not is_secret(found[2]) else f"{found[1]}{found[2]}={HIDDEN}", shown)


def arguments(words: Sequence[str]) -> list[str]:
    """Return the arguments of a program, those hidden that have a secret's name before them."""
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
            shown.append(text(word))
        hide_next = option and pair is None and is_secret(word)
    return shown
