"""The access keys: where they come from, and what they must be. Never in a message, whatever is wrong with them.

A file of keys belongs to us or to root and nobody else can read it. It holds one key a line, each of which may do
everything (two lines while a key is being replaced by another), or a table for each key:

    [keys.monitor]
    key = "…"                     # or file = "monitor.key", beside this file or absolute
    allow = ["health", "workers"] # command names, or "*"; what is not named is refused
    from = "any"                  # or "loopback": only from this machine itself
"""

from __future__ import annotations

import os
import re
import secrets
import stat
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cluster_service.control.errors import CommandError
from cluster_service.machine import files
from cluster_service.rundir import key_path

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

SHORT = 16
"""A key of fewer characters than this can be guessed: a warning on this machine, refused beyond it."""
LONGEST_FILE = 64 * 1024
EVERYTHING = "*"
"""In an allow-list: every command."""

_NAME = re.compile(r"[A-Za-z][\w.-]{0,63}\Z", re.ASCII)
_FIELDS = frozenset(("key", "file", "allow", "from"))


@dataclass(frozen=True)
class Key:
    """One access key. *name* stands for it in the audit log."""

    name: str
    secret: str = field(repr=False)
    allow: tuple[str, ...] = (EVERYTHING,)
    """The commands that it may give, as far as their level lets it."""
    loopback: bool = False
    """It opens nothing for whoever does not knock from this machine itself."""

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Key:
        """Inverse of ``dataclasses.asdict``."""
        return cls(str(data["name"]), str(data["secret"]), tuple(data["allow"]), bool(data["loopback"]))


def numbered(found: Sequence[str]) -> tuple[Key, ...]:
    """Return plain keys, which may do everything: ``key1``, ``key2``."""
    return tuple(Key(f"key{number}", secret) for number, secret in enumerate(found, 1))


def load(path: str, origin: str) -> tuple[Key, ...]:
    """Return the keys in the file *path*. *origin*: what named it, for errors. Raises CommandError bad_request."""
    text = _private_text(path, origin)
    lines = [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if line and not line.startswith("# ")]
    if lines and lines[0].startswith("["):
        return _from_tables(text, path, origin)
    if not lines or not all(line.isprintable() for line in lines) or "\ufffd" in text:
        raise CommandError(
            "bad_request",
            f"{origin}: {path} holds no access key: it is to hold one line of printable text for each",
        )
    return numbered(list(dict.fromkeys(lines)))


def from_file(path: str, origin: str) -> str:
    """Return the first key in *path*, to knock with. Raises CommandError bad_request."""
    return load(path, origin)[0].secret


def _private_text(path: str, origin: str) -> str:
    """Read a file that is ours (or root's) and that nobody else can read."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise CommandError("bad_request", f"{origin}: {path} cannot be read: {error.strerror}") from None
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise CommandError("bad_request", f"{origin}: {path} is not a file")
        if found.st_uid not in (0, os.geteuid()):
            raise CommandError(
                "bad_request", f"{origin}: {path} belongs to user {found.st_uid}, not to you ({os.geteuid()})"
            )
        if stat.S_IMODE(found.st_mode) & 0o077:
            mode = stat.S_IMODE(found.st_mode)
            raise CommandError(
                "bad_request", f"{origin}: {path} can be read by others (mode {mode:04o})", f"chmod 600 {path}"
            )
        data = os.read(fd, LONGEST_FILE + 1)
    finally:
        os.close(fd)
    if len(data) > LONGEST_FILE:
        raise CommandError(
            "bad_request", f"{origin}: {path} holds no access key: it is longer than {LONGEST_FILE} bytes"
        )
    return data.decode("utf-8", "replace")


def _from_tables(text: str, path: str, origin: str) -> tuple[Key, ...]:
    import tomllib  # noqa: PLC0415 - only for files of several keys

    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        place = re.search(r"\(at .*\)\Z", str(error))  # the rest may repeat what stands there
        raise CommandError("bad_request", f"{origin}: {path} is not valid TOML {place[0] if place else ''}") from None
    keys = tables.get("keys")
    if set(tables) != {"keys"} or not isinstance(keys, dict) or not keys:
        raise CommandError("bad_request", f"{origin}: {path} is to hold tables [keys.NAME] and nothing else")
    found = tuple(_from_table(name, table, path, origin) for name, table in keys.items())
    if len({key.secret for key in found}) < len(found):
        raise CommandError("bad_request", f"{origin}: {path}: two of its names have the same key")
    return found


def _from_table(name: str, table: Any, path: str, origin: str) -> Key:
    where = f"{origin}: {path}: [keys.{name}]"

    def bad(sentence: str, hint: str = "") -> CommandError:
        return CommandError("bad_request", f"{where}{sentence}", hint)

    if not _NAME.match(name):
        raise CommandError(
            "bad_request",
            f"{origin}: {path}: {name[:80]!r} cannot name a key: a letter, then letters, digits, '.', '-', '_'",
        )
    if not isinstance(table, dict):
        raise bad(" is no table", f"Write [keys.{name}] and, below it, key = … and allow = […].")
    unknown = sorted(set(table) - _FIELDS)
    if unknown:
        from .values import suggestion  # noqa: PLC0415 - only on the way to an error

        raise bad(
            f" knows no {unknown[0][:80]!r}{suggestion(unknown[0], _FIELDS)}", "There are: key, file, allow, from."
        )
    secret, file = table.get("key"), table.get("file")
    if (secret is None) == (file is None):
        raise bad(" needs either key or file")
    if file is not None:
        if not isinstance(file, str):
            raise bad(".file is not a path")
        secret = from_file(os.path.join(os.path.dirname(path), os.path.expanduser(file)), f"{where}.file")
    if not isinstance(secret, str) or not secret.strip() or not secret.isprintable():
        raise bad(".key is not printable text in one line")
    allow = table.get("allow", [])
    if not isinstance(allow, list) or not all(word == EVERYTHING or _is_name(word) for word in allow):
        raise bad('.allow is not a list of command names: write allow = ["health", "workers"], or ["*"]')
    origin_of = table.get("from", "any")
    if origin_of not in ("any", "loopback"):
        raise bad(".from is neither any nor loopback")
    return Key(name, secret.strip(), tuple(allow), origin_of == "loopback")


def _is_name(word: Any) -> bool:
    return isinstance(word, str) and _NAME.match(word) is not None


def automatic(run_dir: str, name: str) -> tuple[Key, ...]:
    """Return the keys kept for the service *name*; one is made (256 bits, 0600) when there is none."""
    path = key_path(run_dir, name)
    key = secrets.token_urlsafe(32)
    try:
        with open(files.create(path, 0o600), "w", encoding="utf-8") as file:
            file.write(key + "\n")
    except FileExistsError:
        return load(path, "--access-key auto")
    return numbered([key])


def warnings(keys: Sequence[Key], *, beyond: bool) -> list[str]:
    """Return sentences about *keys*. Raises CommandError for a short one when the door is open *beyond* this machine
    to it.
    """
    told = [check(key.secret, beyond=beyond and not key.loopback) for key in keys]
    told += [f"the access key {key.name} may do nothing: it has no allow = […]" for key in keys if not key.allow]
    return [sentence for sentence in dict.fromkeys(told) if sentence]


def check(key: str, *, beyond: bool) -> str:
    """Return a warning about *key*, or nothing. Raises CommandError for a short one when the door is open *beyond*
    this machine.
    """
    if len(key) >= SHORT:
        return ""
    if beyond:
        raise CommandError(
            "bad_request",
            f"the access key has {len(key)} characters: a door that others can reach needs at least {SHORT}",
            "--access-key auto makes one.",
        )
    return (
        f"the access key has only {len(key)} character{'' if len(key) == 1 else 's'} and could be guessed: "
        f"{SHORT} or more are safe (--access-key auto makes one)"
    )
