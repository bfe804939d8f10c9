"""Characters that are not seen themselves and change how others are: nobody's text may bring them to a terminal.

They turn the direction of writing, hide text or join it. A table, because the log writer has no memory for
``unicodedata``. Its *format characters* (category Cf) are all here but for those that a script needs: the zero-width
joiner and non-joiner (also in emoji), the signs that are written around Arabic, Syriac and Kaithi numbers and words,
and what arranges hieroglyphs.
"""

from __future__ import annotations

UNSEEN = (
    (0xAD, 0xAD),  # the soft hyphen
    (0x61C, 0x61C),  # a mark of direction, as 0x200E, 0x200F
    (0x180E, 0x180E),
    (0x200B, 0x200B),  # a space without width
    (0x200E, 0x200F),
    (0x202A, 0x202E),  # embeds and overrides a direction
    (0x2060, 0x206F),  # invisible operators, isolated directions
    (0xFEFF, 0xFEFF),  # the byte order mark
    (0xFFF9, 0xFFFB),
    (0x1BCA0, 0x1BCA3),
    (0x1D173, 0x1D17A),
    (0xE0000, 0xE007F),  # tags: a second, invisible ASCII
)
"""The first and the last of each range."""

IN_CLASS = "".join(f"{chr(first)}-{chr(last)}" for first, last in UNSEEN)
"""The same for a regular expression, to stand between brackets."""
