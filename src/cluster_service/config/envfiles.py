r"""Files of variables for the workers' environment: read once, when a release is made.

    # a comment stands on a line of its own, and begins with # or ;
    export DATABASE_URL=postgres://db/shop      all after the = is the value, but for the blanks around it
    GREETING='taken as it stands: $HOME "\n"'
    KEY="of several lines, perhaps, with \n \t \" \\ \$ in it"

Nothing is expanded. The last of several values counts. What the files say is most likely secret, so that no error here
quotes a value or a line.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from cluster_service.control.errors import CommandError

if TYPE_CHECKING:
    from collections.abc import Sequence

OPTIONAL = "-"
"""Before a file that need not exist."""
LONGEST = 1 << 20

_BLANK = re.compile(r"[ \t]*(?:[#;][^\n]*)?(?:\n|\Z)")
_NAME = re.compile(r"[ \t]*(?:export[ \t]+)?([A-Za-z_][A-Za-z0-9_]*)[ \t]*=[ \t]*")
_SINGLE = re.compile(r"'([^']*)'")
_DOUBLE = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_PLAIN = re.compile(r"[^\n]*")
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "\n": ""}
_COMMENT = re.compile(r"\s[#;]")


def read(paths: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Return the variables of all of *paths*; the later file counts. Raises CommandError bad_request."""
    found: dict[str, str] = {}
    for path in paths:
        found.update(_read(path.removeprefix(OPTIONAL), optional=path.startswith(OPTIONAL)))
    return tuple(found.items())


def _read(path: str, *, optional: bool) -> dict[str, str]:
    hint = "Name a file of variables that you can read; with a - before it, it need not exist."
    try:
        if os.path.exists(path) and not os.path.isfile(path):
            raise CommandError("bad_request", f"{path} cannot be read: it is not a file", hint)
        with open(path, "rb") as file:
            data = file.read(LONGEST + 1)
    except FileNotFoundError:
        if optional:
            return {}
        raise CommandError("bad_request", f"there is no file {path}", hint) from None
    except OSError as error:
        raise CommandError("bad_request", f"{path} cannot be read: {error.strerror}", hint) from None
    if len(data) > LONGEST:
        raise CommandError("bad_request", f"{path} is longer than {LONGEST} bytes", hint)
    try:
        return parse(data.decode("utf-8-sig"), path)
    except UnicodeDecodeError:
        raise CommandError("bad_request", f"{path} is not UTF-8 text", "Save it as UTF-8.") from None


def parse(text: str, path: str) -> dict[str, str]:
    """Return the variables that *text*, which stands in *path*, sets. Raises CommandError bad_request."""
    text = text.replace("\r\n", "\n")
    found: dict[str, str] = {}
    at = 0

    def bad(sentence: str, hint: str) -> CommandError:
        return CommandError("bad_request", f"{path}:{text.count(chr(10), 0, at) + 1}: {sentence}", hint)

    while at < len(text):
        blank = _BLANK.match(text, at)
        if blank is not None:
            at = blank.end()
            continue
        name = _NAME.match(text, at)
        if name is None:
            raise bad("this line sets no variable", "Write NAME=VALUE; a comment begins with #.")
        begin = name.end()
        quote = text[begin : begin + 1]
        value = (_SINGLE if quote == "'" else _DOUBLE if quote == '"' else _PLAIN).match(text, begin)
        if value is None:
            raise bad(f"the quote that begins the value of {name[1]} is never closed", f"Close it with {quote}.")
        end = value.end()
        if quote in ("'", '"') and quote:
            after = _BLANK.match(text, end)
            if after is None:
                raise bad(
                    f"something follows the closing quote of {name[1]}",
                    f"Put the whole value in one pair of quotes; \\{quote} is a quote in it."
                    if quote == '"'
                    else "Put the whole value in one pair of quotes.",
                )
            end = after.end()
            found[name[1]] = _unescaped(value[1]) if quote == '"' else value[1]
        else:
            if _COMMENT.search(value[0]):
                raise bad(
                    f"a # or ; after a blank in the value of {name[1]}: it may be meant as a comment",
                    "Put the value in quotes, or the comment on a line of its own.",
                )
            found[name[1]] = value[0].strip()
            end += 1
        if "\0" in found[name[1]]:
            raise bad(f"the value of {name[1]} holds a NUL character", "Remove it.")
        at = end
    return found


def _unescaped(text: str) -> str:
    return _ESCAPE.sub(lambda match: _ESCAPES.get(match[1], match[1] if match[1] in '"\\$`' else match[0]), text)
