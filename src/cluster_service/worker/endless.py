"""Which answers never end by themselves. How they are ended: ``streams``, and the drains of other servers."""

from __future__ import annotations

from typing import Any

ENDLESS = ("text/event-stream", "multipart/x-mixed-replace")
"""Content types of answers that go on until somebody ends them."""
_TYPE, _LENGTH = "content-type", "content-length"


def endless(method: str, headers: Any) -> bool:
    """Whether the answer with *headers*, pairs of text or of bytes, to a request of *method* ends by itself never.

    Only one to a GET: that to a POST (a language model's words, say) is finite, and cannot be asked for again. Nor is
    one whose length is told.
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
