"""Detection of endless answers. They are ended by ``streams`` and by the drains of other servers."""

from __future__ import annotations

from typing import Any

ENDLESS = ("text/event-stream", "multipart/x-mixed-replace")
"""Content types of answers that do not end by themselves."""
_TYPE, _LENGTH = "content-type", "content-length"


def endless(method: str, headers: Any) -> bool:
    """Return True if the answer with *headers* (pairs of text or bytes) to a request of *method* does not end by
    itself.

    Only for GET: the answer to a POST, such as the output of a language model, is finite and cannot be requested again.
    An answer with a Content-Length is finite too.
    """
    if method != "GET" or not isinstance(headers, (list, tuple)):
        return False
    found = False
    for name, value in headers:
        if len(name) in (len(_TYPE), len(_LENGTH)):
            text = _text(name)
            if text == _LENGTH:
                return False
            found = found or (text == _TYPE and _text(value).startswith(ENDLESS))
    return found


def _text(part: Any) -> str:
    return (part if isinstance(part, str) else bytes(part).decode("latin-1")).strip().lower()
