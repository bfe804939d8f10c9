"""Addresses as written by users -> their canonical form."""

from __future__ import annotations

import ipaddress
import os
import re
import socket

from cluster_service.control.errors import CommandError
from cluster_service.wire import addresses

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
