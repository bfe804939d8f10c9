"""The definition of a setting, and parsers of plain values and addresses for settings and arguments."""

from __future__ import annotations

import ipaddress
import math
import os
import re
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cluster_service.errors import CommandError
from cluster_service.wire import addresses

if TYPE_CHECKING:
    from collections.abc import Iterable

GROUP = "group"
SERVICE = "service"
MANY = frozenset(("env", "env_files", "limits", "binds", "words", "arguments", "hosts", "paths", "depends", "groups"))
"""Kinds with several values."""


@dataclass(frozen=True)
class Setting:
    """One setting. *kind* names a function of ``parsers.KINDS``; *default* is a parsed value of that kind."""

    name: str
    kind: str
    default: Any
    doc: str
    flags: tuple[str, ...] = ()
    scope: str = GROUP
    also: tuple[str, ...] = ()
    """Aliases, mostly from the original. One that ends in ``_ms`` is in milliseconds."""
    choices: tuple[str, ...] = ()
    least: int | None = None
    most: int | None = None
    metavar: str = ""
    shown: str = ""
    """The default as shown in help, if ``default`` is not suitable."""
    sources: tuple[str, ...] = ("flags", "environment", "file")
    """Where it may be given; keyword arguments may give every setting."""

    @property
    def environment(self) -> str:
        """The name of its environment variable."""
        return f"CSERVICE_{self.name.upper()}"

    @property
    def many(self) -> bool:
        """True if its option may be repeated."""
        return self.kind in MANY


_DURATION = re.compile(r"\+?(\d+(?:\.\d*)?|\.\d+)\s*(ms|s|m|h|)\Z", re.ASCII)
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_SIZE = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*([kmgt]?)(?:i?b)?\Z", re.ASCII | re.IGNORECASE)
_BYTES = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_TRUE = {"1", "true", "yes", "on"}
_FALSE = {"0", "false", "no", "off"}

MAX_CHARACTERS = 64
"""Maximum length of a text that is parsed as a number, duration or size, or compared for a suggestion."""
MAX_INTEGER = 2**63 - 1

LONGEST = 10 * 365 * 86400.0
"""Maximum duration in seconds; a longer one is probably a mistake, and would overflow a timer."""


def quoted(value: Any) -> str:
    """Return the repr of *value*, truncated, for error messages."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _bad(sentence: str, hint: str = "") -> CommandError:
    return CommandError("bad_request", sentence, hint)


def duration(value: Any, unit: str = "s") -> float:
    """Return *value* in seconds. *unit*: the unit of a plain number."""
    text = str(value).strip() if isinstance(value, (str, int, float)) and not isinstance(value, bool) else ""
    match = _DURATION.match(text) if len(text) <= MAX_CHARACTERS else None
    if match is None:
        raise _bad(f"{quoted(value)} is not a duration: write 60 (seconds), 1500ms, 10s, 5m or 2h")
    seconds = float(match[1]) * _SECONDS[match[2] or unit]
    if seconds > LONGEST:
        raise _bad(f"{quoted(value)} is longer than ten years: write 60 (seconds), 1500ms, 10s, 5m or 2h")
    return seconds


def size(value: Any) -> int:
    """Return *value* in bytes."""
    text = str(value).strip() if not isinstance(value, bool) else ""
    match = _SIZE.match(text) if len(text) <= MAX_CHARACTERS else None
    number = int(float(match[1]) * _BYTES[match[2].lower()]) if match is not None else -1
    if number > MAX_INTEGER:
        raise _bad(f"{quoted(value)} is more than the kernel can count")
    if number < 0:
        raise _bad(f"{quoted(value)} is not a size: write 1048576 (bytes), 64k, 512m or 2g")
    return number


def integer(value: Any, least: int | None = None, most: int | None = None) -> int:
    """Return *value* as an integer between *least* and *most*."""
    long = isinstance(value, str) and len(value) > MAX_CHARACTERS
    if long or isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
        number = None
    else:
        try:
            number = int(value)
        except (TypeError, ValueError, OverflowError):
            number = None
    if number is not None and abs(number) > MAX_INTEGER:
        number = None
    if number is None or (least is not None and number < least) or (most is not None and number > most):
        raise _bad(f"{quoted(value)} is not {_a_number(least, most)}")
    return number


def _a_number(least: int | None, most: int | None) -> str:
    if most is not None:
        return f"a whole number from {0 if least is None else least} to {most}"
    return "a whole number" if least is None else f"a whole number of at least {least}"


def flag(value: Any) -> bool:
    """Return *value* as a boolean."""
    if isinstance(value, bool):
        return value
    word = str(value).strip().lower()
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise _bad(f"{quoted(value)} is neither true nor false: write true or false")


def text(value: Any) -> str:
    """Return *value* as text for an argument or a path: not empty and without NUL."""
    if (
        isinstance(value, bool)
        or not isinstance(value, (str, int, float))
        or (isinstance(value, float) and math.isnan(value))
    ):
        raise _bad(f"{quoted(value)} is not text")
    word = str(value)
    if not word or "\0" in word:
        raise _bad(f"{quoted(value)} is empty" if not word else f"{quoted(value)} holds a NUL character")
    return word


def argument(value: Any) -> str:
    """Return *value* as an argument of a program: text, possibly empty."""
    return "" if value == "" else text(value)


def choice(value: Any, choices: Iterable[str]) -> str:
    """Return *value* if it is one of *choices*."""
    known = list(choices)
    if value not in known:
        raise _bad(f"{quoted(value)} is not one of {', '.join(known)}{suggestion(str(value), known)}")
    return str(value)


def suggestion(word: str, known: Iterable[str]) -> str:
    """Return ``: did you mean 'workers'?`` if *word* is similar to one of *known*, else an empty string."""
    near = nearest(word, known)
    return f": did you mean {near!r}?" if near else ""


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Return the one of *known* that is most similar to *word*, or None."""
    import difflib  # only needed for an error

    if len(word) > MAX_CHARACTERS:  # takes quadratic time
        return None
    found = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return found[0] if found else None


HOW = "write 127.0.0.1:8000, :8000 (every address), [::1]:8000 or unix:/path"
_UNIX_LIMIT = 107
_ADDRESS = re.compile(r"(?:(?P<host>\[[^\]]*\]|[^:\[\]/]*):)?(?P<port>\d+)(?P<both>\+v4)?\Z", re.ASCII)


def canonical(text: str, base: str = "/") -> str:
    """Return the canonical form: ``127.0.0.1:8000``, ``[::1]:8000``, ``unix:/path``, ``unix:@name`` or ``udp:…``.

    *base*: the directory for a relative Unix path. Host names are resolved immediately. Raises CommandError.
    """
    if text.startswith("unix:"):
        return _unix(text, base)
    protocol = "udp:" if text.startswith("udp:") else ""
    match = _ADDRESS.match(text[len(protocol) :].removeprefix("tcp:").removeprefix("//"))
    if match is None:
        raise CommandError("bad_request", f"{text!r} is not an address: {HOW}")
    port = int(match["port"])
    if not 1 <= port <= 65535:
        what = "port 0 would be another port for each worker" if port == 0 else f"{port} is not a port (1 to 65535)"
        raise CommandError("bad_request", f"{text!r} cannot be shared: {what}", f"For an address, {HOW}.")
    host = match["host"]
    # a bare port binds to loopback, as the default does; ":port" binds to every address, as in other servers
    address = "127.0.0.1" if host is None else resolve(host.strip("[]") or "0.0.0.0", text)
    if match["both"] and address != "::":
        raise CommandError("bad_request", f"{text!r} is not an address: +v4 goes with [::] alone")
    return str(addresses.parse(f"{protocol}{joined(address, port)}{match['both'] or ''}"))


def joined(address: str, port: int) -> str:
    """Return ``[::1]:80`` for ``("::1", 80)``."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _unix(text: str, base: str) -> str:
    path = text.removeprefix("unix:").removeprefix("//")
    if not path or path == "@" or "\0" in path:
        raise CommandError("bad_request", f"{text!r} names no socket: {HOW}")
    if not path.startswith("@"):
        path = os.path.abspath(os.path.join(base, os.path.expanduser(path)))
    if len(os.fsencode(path)) > _UNIX_LIMIT:
        raise CommandError(
            "bad_request", f"{text!r} is longer than the {_UNIX_LIMIT} bytes that a socket's path may have"
        )
    return f"unix:{path}"


def resolve(host: str, text: str) -> str:
    """Return the numeric address of *host*, preferring IPv4. *text*: the original text, for the error."""
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        told = f"{text!r}: there is no host {host!r}" if text != host else f"there is no host {host!r}"
        raise CommandError("bad_request", told, f"For an address, {HOW}.") from None
    return str(min(found, key=lambda entry: entry[0] != socket.AF_INET)[4][0])
