r"""Environment files of the workers, read once when a release is made.

    # a comment is a line of its own that begins with # or ;
    export DATABASE_URL=postgres://db/shop      the value is everything after the =, without surrounding blanks
    GREETING='taken literally: $HOME "\n"'
    KEY="may have several lines, with \n \t \" \\ \$ in it"

Nothing is expanded. The last value of a variable applies. The content is probably secret, so no error quotes a value
or a line.
"""

from __future__ import annotations

import os
import re
import stat
from typing import TYPE_CHECKING

from cluster_service.errors import CommandError
from cluster_service.machine.identity import OWN

from . import as_user

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cluster_service.machine.identity import Identity

OPTIONAL = "-"
"""Prefix of a file that need not exist."""
LONGEST = 1 << 20
_MAX_LINKS = 40

_BLANK = re.compile(r"[ \t]*(?:[#;][^\n]*)?(?:\n|\Z)")
_NAME = re.compile(r"[ \t]*(?:export[ \t]+)?([A-Za-z_][A-Za-z0-9_]*)[ \t]*=[ \t]*")
_SINGLE = re.compile(r"'([^']*)'")
_DOUBLE = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_PLAIN = re.compile(r"[^\n]*")
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "\n": ""}
_REFERENCE = re.compile(r"\$(?:([A-Za-z_]\w*)|\{([A-Za-z_]\w*)\})", re.ASCII)
_COMMENT = re.compile(r"\s[#;]")


def unexpanded(variables: Sequence[tuple[str, str]], environ: Mapping[str, str], origin: str) -> list[str]:
    """Return a warning for each value that refers to an existing variable, because it is not expanded."""
    known = {*environ, *(name for name, _ in variables)}
    found = [
        (name, next((each[0] for each in _REFERENCE.finditer(value) if (each[1] or each[2]) in known), ""))
        for name, value in variables
    ]
    return [
        f"{origin}: {name}: {text} is not expanded; workers get it as written. Write the value itself, or let the "
        f'shell expand it: --env "{name}=…{text}…"'
        for name, text in found
        if text
    ]


def read(paths: Sequence[str], identity: Identity) -> tuple[tuple[str, str], ...]:
    """Return the variables in *paths*; later files take precedence. Raises CommandError bad_request.

    *identity*: the user of the workers. A file is read with our own privileges only if no other user could have
    replaced it; else as that user.
    """
    found: dict[str, str] = {}
    for path in paths:
        plain, optional = path.removeprefix(OPTIONAL), path.startswith(OPTIONAL)
        who = OWN if identity == OWN or is_ours_alone(plain) else identity
        try:
            found.update(dict(as_user.call(who, "variables", plain, optional)))
        except CommandError as error:
            if who == OWN:
                raise
            whose = f"It is read as user {who.name or who.uid}, unless root alone can change it and its directories."
            raise CommandError(error.code, error.message, whose) from None
    return tuple(found.items())


def is_ours_alone(path: str) -> bool:
    """Return True if no other user can change what *path* leads to: the file, links and all parent directories."""
    path = os.path.abspath(path)
    for _ in range(_MAX_LINKS):
        if not _only_ours(path):
            return False
        parts = path.split("/")
        folders = ["/".join(parts[: count + 1]) for count in range(1, len(parts))]
        link = next((folder for folder in folders if os.path.islink(folder)), None)
        if link is None:
            return True
        leads_to = os.readlink(link)
        if ".." in leads_to.split("/"):  # only the kernel resolves this reliably
            return False
        path = os.path.abspath(os.path.join(os.path.dirname(link), leads_to) + path[len(link) :])
    return False


def _only_ours(path: str) -> bool:
    entry_is_there = False
    while True:
        try:
            found = os.lstat(path)
        except FileNotFoundError:
            found = None  # then its directory decides
        except OSError:
            return False
        if found is not None and found.st_uid not in (0, os.geteuid()):
            return False
        if found is not None and found.st_mode & 0o022 and not stat.S_ISLNK(found.st_mode):
            keeps_entries = found.st_mode & stat.S_ISVTX and entry_is_there  # entries of root that others cannot rename
            if not keeps_entries:
                return False
        if path == "/":
            return True
        entry_is_there = found is not None
        path = os.path.dirname(path)


def read_here(path: str, optional: bool) -> list[list[str]]:
    """Return the variables of one file as pairs. Raises CommandError bad_request."""
    hint = "Name a file of variables that you can read; with a - before it, it need not exist."
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise CommandError("bad_request", f"{path} cannot be read: it is not a file", hint)
            with open(descriptor, "rb", closefd=False) as file:
                data = file.read(LONGEST + 1)
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        if optional:
            return []
        raise CommandError("bad_request", f"there is no file {path}", hint) from None
    except OSError as error:
        raise CommandError("bad_request", f"{path} cannot be read: {error.strerror}", hint) from None
    if len(data) > LONGEST:
        raise CommandError("bad_request", f"{path} is longer than {LONGEST} bytes", hint)
    try:
        return [[name, value] for name, value in parse(data.decode("utf-8-sig"), path).items()]
    except UnicodeDecodeError:
        raise CommandError("bad_request", f"{path} is not UTF-8 text", "Save it as UTF-8.") from None


def parse(text: str, path: str) -> dict[str, str]:
    """Return the variables set in *text*, the content of *path*. Raises CommandError bad_request."""
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
