"""Access keys and TLS files: where they come from, and their requirements. No message contains a key."""

from __future__ import annotations

import os
import re
import secrets
import ssl
import stat
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cluster_service.errors import CommandError
from cluster_service.machine import files
from cluster_service.rundir import key_path

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

SHORT = 16
"""A shorter key (in characters) can be guessed: a warning on this machine, refused for other machines."""
LONGEST_FILE = 64 * 1024
EVERYTHING = "*"
"""Allows every command in an allow-list."""

_NAME = re.compile(r"[A-Za-z][\w.-]{0,63}\Z", re.ASCII)
_FIELDS = frozenset(("key", "file", "allow", "from"))


@dataclass(frozen=True)
class Key:
    """One access key. *name* identifies it in the audit log."""

    name: str
    secret: str = field(repr=False)
    allow: tuple[str, ...] = (EVERYTHING,)
    """The commands that it may give, subject to their level."""
    loopback: bool = False
    """Valid only for clients on this machine."""

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Key:
        """Invert ``dataclasses.asdict``."""
        return cls(str(data["name"]), str(data["secret"]), tuple(data["allow"]), bool(data["loopback"]))


def numbered(found: Sequence[str]) -> tuple[Key, ...]:
    """Return keys that are valid for every command, with the names ``key1``, ``key2`` and so on."""
    return tuple(Key(f"key{number}", secret) for number, secret in enumerate(found, 1))


def load(path: str, origin: str) -> tuple[Key, ...]:
    """Return the keys in the file *path*. *origin*: the setting that named it, for errors. Raises CommandError."""
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
    """Return the first key in *path*, for a client. Raises CommandError bad_request."""
    return load(path, origin)[0].secret


def _private_text(path: str, origin: str) -> str:
    """Read a file that is owned by us or by root and not accessible to others. Raises CommandError bad_request."""
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
    import tomllib  # only for files with several keys

    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        place = re.search(r"\(at .*\)\Z", str(error))  # the rest may quote the content
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
        from .setting_values import suggestion  # only needed for an error

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
    """Return the keys stored for the service *name*; generate one (256 bits, mode 0600) if there is none."""
    path = key_path(run_dir, name)
    key = secrets.token_urlsafe(32)
    try:
        with open(files.create(path, 0o600), "w", encoding="utf-8") as file:
            file.write(key + "\n")
    except FileExistsError:
        return load(path, "--access-key auto")
    return numbered([key])


def warnings(keys: Sequence[Key], *, beyond: bool) -> list[str]:
    """Return warnings about *keys*.

    *beyond*: other machines can reach the endpoint. Raises CommandError if a key is then too short.
    """
    told = [check(key.secret, beyond=beyond and not key.loopback) for key in keys]
    told += [f"the access key {key.name} may do nothing: it has no allow = […]" for key in keys if not key.allow]
    return [sentence for sentence in dict.fromkeys(told) if sentence]


def check(key: str, *, beyond: bool) -> str:
    """Return a warning about *key*, or an empty string.

    *beyond*: other machines can use it. Raises CommandError if it is then too short.
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


def server_context(cert: str, key: str | None, client_ca: str | None) -> ssl.SSLContext:
    """Return the context of an endpoint.

    *key*: None if it is in *cert*; *client_ca*: the authority that must have signed the certificates of clients. Raises
    CommandError bad_request.
    """
    _check_private(key or cert, "tls_key" if key else "tls_cert")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    load_own(context, cert, key, "tls")
    if client_ca is not None:
        _trust(context, client_ca, "tls_client_ca")
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_context(ca_file: str | None, client_cert: str | None) -> ssl.SSLContext:
    """Return the context of a client, which always verifies: against *ca_file*, else against the system's authorities.

    *client_cert*: a PEM file with a certificate and its key, for endpoints that require one. Raises CommandError
    bad_request.
    """
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if ca_file is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        _trust(context, ca_file, "ca_file")
    if client_cert is not None:
        load_own(context, client_cert, None, "client")
    return context


def load_own(context: ssl.SSLContext, cert: str, key: str | None, whose: str) -> None:
    """Load a certificate into *context*, replacing an earlier one. Raises CommandError bad_request."""
    for path, setting in ((cert, f"{whose}_cert"), (key, f"{whose}_key")):
        if path is not None:
            _check_readable(path, setting)
    try:
        context.load_cert_chain(cert, key, password=_no_password)
    except _Protected:
        raise CommandError(
            "bad_request",
            f"{whose}_key: the key in {key or cert} is protected by a password, which nobody is there to type",
            "openssl pkey -in KEY -out PLAIN removes it.",
        ) from None
    except (ssl.SSLError, OSError) as error:
        reason = getattr(error, "reason", None) or error.strerror or type(error).__name__
        raise CommandError(
            "bad_request",
            f"{whose}_cert: {cert}{f' and {key}' if key else ''} are no certificate and its key, in PEM ({reason})",
        ) from None


def _trust(context: ssl.SSLContext, path: str, setting: str) -> None:
    _check_readable(path, setting)
    try:
        context.load_verify_locations(path)
    except (ssl.SSLError, OSError) as error:
        reason = getattr(error, "reason", None) or error.strerror or type(error).__name__
        raise CommandError("bad_request", f"{setting}: {path} holds no certificates in PEM form ({reason})") from None


def _check_readable(path: str, setting: str) -> None:
    try:
        with open(path, "rb"):
            return
    except OSError as error:
        raise CommandError("bad_request", f"{setting}: {path} cannot be read: {error.strerror}") from None


def _check_private(path: str, setting: str) -> None:
    try:
        found = os.stat(path)
    except OSError as error:
        raise CommandError("bad_request", f"{setting}: {path} cannot be read: {error.strerror}") from None
    mode = stat.S_IMODE(found.st_mode)
    if found.st_uid not in (0, os.geteuid()):
        raise CommandError(
            "bad_request", f"{setting}: {path} belongs to user {found.st_uid}, not to you ({os.geteuid()})"
        )
    if mode & 0o007:
        raise CommandError(
            "bad_request",
            f"{setting}: the private key in {path} can be read by others (mode {mode:04o})",
            f"chmod o= {path}",
        )


class _Protected(Exception):
    """The key is encrypted with a password."""


def _no_password() -> str:
    raise _Protected
