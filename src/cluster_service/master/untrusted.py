"""Escaping of text that a worker or a user's program wrote, for logs, events and terminals."""

from __future__ import annotations


def printable(text: str, limit: int) -> str:
    """Return at most *limit* characters of *text*, with control characters and lone surrogates escaped.

    A tab is kept. Invisible characters that reorder others (bidirectional controls) are escaped too.
    """
    text = text if len(text) <= limit else text[:limit] + " …"
    return text if text.isprintable() else "".join(map(_escaped, text))


def _escaped(character: str) -> str:
    if character.isprintable() or character == "\t":
        return character
    return character.encode("unicode_escape").decode("ascii")
