"""Addresses, as one canonical text each, and as arguments of socket calls.

    127.0.0.1:8000      [::1]:8000      0.0.0.0:80
    [::]:8000           IPv6 only
    [::]:8000+v4        IPv6 and IPv4 ("dual-stack")
    [fe80::1%2]:8000    an address on network interface 2 only
    unix:/run/app.sock  unix:@abstract-name
    udp:127.0.0.1:53    udp:[::1]:53

Two sockets can be shared if the texts of their addresses are equal. Names are not resolved here: the code that parses
user input does that. Bytes in paths that are not UTF-8 are represented as surrogates (``os.fsdecode``).
"""

from __future__ import annotations

import os
import re
import socket
import struct
from dataclasses import dataclass
from typing import Any, Optional

_INET = re.compile(r"(?P<v4>\d+\.\d+\.\d+\.\d+):(?P<port4>\d+)|\[(?P<v6>[^\]]+)\]:(?P<port6>\d+)(?P<dual>\+v4)?")
_PORTS = range(1, 65536)
_PATH_LIMIT = 107
"""Maximum length of the path or abstract name of a Unix socket, in bytes: sun_path without its final NUL."""


class AddressError(ValueError):
    """The text is not an address. The message says why."""


@dataclass(frozen=True)
class Address:
    """The address of a socket. ``str()`` returns its canonical text, which ``parse`` reads.

    In a formatted string, for people, control characters of a path are escaped: a worker chooses it.
    """

    kind: str
    """``tcp``, ``udp`` or ``unix``."""
    host: str
    """A canonical IP address; for unix the path, or ``@`` and the abstract name."""
    port: int = 0
    dual: bool = False
    """An IPv6 socket that also accepts IPv4."""

    def __str__(self) -> str:
        if self.kind == "unix":
            return f"unix:{self.host}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'udp:' if self.kind == 'udp' else ''}{host}:{self.port}{'+v4' if self.dual else ''}"

    def __format__(self, spec: str) -> str:
        text = str(self)
        if not text.isprintable():
            text = "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)
        return format(text, spec)

    @property
    def family(self) -> int:
        """AF_INET, AF_INET6 or AF_UNIX."""
        if self.kind == "unix":
            return int(socket.AF_UNIX)
        return int(socket.AF_INET6 if ":" in self.host else socket.AF_INET)

    @property
    def path(self) -> Optional[str]:
        """The path of a Unix socket; None if there is none."""
        return self.host if self.kind == "unix" and not self.host.startswith("@") else None

    @property
    def wildcard(self) -> bool:
        """True if it means every address of the machine."""
        return self.host in ("0.0.0.0", "::")

    @property
    def v6only(self) -> bool:
        """The value of IPV6_V6ONLY for it; meaningless for other families."""
        return not self.dual and not self.host.startswith("::ffff:")

    def sockaddr(self) -> Any:
        """Return the argument of ``socket.bind`` for it."""
        if self.kind == "unix":
            return os.fsencode(self.host) if self.path is not None else b"\0" + os.fsencode(self.host[1:])
        if self.family == socket.AF_INET:
            return (self.host, self.port)
        host, _, scope = self.host.partition("%")
        return (host, self.port, 0, int(scope or 0))


def parse(text: str) -> Address:
    """Return the address in *text*, in any notation of its IP address. Raises AddressError."""
    if text.startswith("unix:"):
        return _parse_unix(text)
    kind, rest = ("udp", text[4:]) if text.startswith("udp:") else ("tcp", text)
    match = _INET.fullmatch(rest)
    if match is None:
        raise AddressError(
            f"{text!r} is not an address: expected 127.0.0.1:8000, [::1]:8000, unix:/path or udp:127.0.0.1:53"
        )
    port = int(match["port4"] or match["port6"])
    if port not in _PORTS:
        raise AddressError(f"{text!r}: a port is a number from 1 to 65535")
    if match["v4"]:
        return Address(kind, _canonical(socket.AF_INET, match["v4"], text), port)
    host, percent, scope = match["v6"].partition("%")
    host = _canonical(socket.AF_INET6, host, text)
    if match["dual"] and host != "::":
        raise AddressError(f"{text!r}: only [::] can take IPv4 too")
    return Address(kind, f"{host}%{_scope(scope, text)}" if percent else host, port, dual=bool(match["dual"]))


def _canonical(family: int, host: str, text: str) -> str:
    try:
        return socket.inet_ntop(family, socket.inet_pton(family, host))
    except OSError:
        raise AddressError(f"{text!r}: {host} is not an IP address") from None


def _scope(scope: str, text: str) -> int:
    if scope.isdigit():
        return int(scope)
    try:
        return socket.if_nametoindex(scope)
    except OSError:
        raise AddressError(f"{text!r}: this machine has no network interface {scope}") from None


def _parse_unix(text: str) -> Address:
    host = text[len("unix:") :]
    if host.startswith("@"):
        length = len(os.fsencode(host)) - 1
    else:
        length = len(os.fsencode(host))
        if not host.startswith("/") or "\0" in host:
            raise AddressError(f"{text!r}: the path of a Unix socket must be absolute here")
        host = os.path.normpath(host)
    if not 0 < length <= _PATH_LIMIT:
        raise AddressError(f"{text!r}: a Unix socket's path has 1 to {_PATH_LIMIT} bytes, this one {length}")
    return Address("unix", host)


def from_sockaddr(data: bytes, kind: str, *, v6only: bool) -> Optional[Address]:
    """Return the address in *data*, a ``struct sockaddr`` of the kernel, for a socket of *kind* tcp or udp.

    Returns None if it cannot be shared: port 0, an unnamed Unix socket, another family, or too short. A relative path
    is returned unchanged.
    """
    if len(data) < 2:
        return None
    (family,) = struct.unpack_from("=H", data)
    if family == socket.AF_UNIX:
        return _from_unix(data[2:])
    if family == socket.AF_INET and len(data) >= 16:
        (port,) = struct.unpack_from("!H", data, 2)
        return Address(kind, socket.inet_ntop(socket.AF_INET, data[4:8]), port) if port else None
    if family == socket.AF_INET6 and len(data) >= 24:
        (port,) = struct.unpack_from("!H", data, 2)
        host = socket.inet_ntop(socket.AF_INET6, data[8:24])
        (scope,) = struct.unpack_from("=I", data, 24) if len(data) >= 28 else (0,)
        dual = host == "::" and not v6only
        link_local = data[8] == 0xFE and data[9] & 0xC0 == 0x80
        return Address(kind, f"{host}%{scope}" if scope and link_local else host, port, dual) if port else None
    return None


def _from_unix(name: bytes) -> Optional[Address]:
    if not name:
        return None
    if name[:1] == b"\0":
        return Address("unix", "@" + os.fsdecode(name[1:])) if len(name) > 1 else None
    path = name.split(b"\0", 1)[0]
    return Address("unix", os.fsdecode(b"./" + path if path[:1] == b"@" else path))
