"""Text that a worker or a program of the user's wrote, made fit for a log, an event or a terminal."""

from __future__ import annotations


def printable(text: str, limit: int) -> str:
    """Return at most *limit* characters of *text*, with escapes for control characters and lone surrogates.

    A tab stays. Invisible characters that change the order of others (bidirectional controls) are escaped too.
    """
    text = text if len(text) <= limit else text[:limit] + " …"
    return text if text.isprintable() else "".join(map(_escaped, text))


def _escaped(character: str) -> str:
    if character.isprintable() or character == "\t":
        return character
    return character.encode("unicode_escape").decode("ascii")
