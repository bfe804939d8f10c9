"""Addresses to bind: of this machine and not, privileged, another group's, and paths."""

from __future__ import annotations

import os
import socket
import struct


class Places:
    """Below FUZZ_PLACES, this user's directory, ``closed`` is root's. FUZZ_HONEST is a port that root has."""

    KINDS = (
        "port", "port", "port", "datagram", "wildcard", "ipv6", "dual", "privileged", "honest", "elsewhere",
        "multicast", "path", "relative", "closed", "symlink", "missing", "abstract", "long",
    )  # fmt: skip

    def __init__(self) -> None:
        self._folder = os.environ.get("FUZZ_PLACES", "/tmp")
        self._honest = int(os.environ.get("FUZZ_HONEST", "1"))
        self._other_user = os.environ.get("FUZZ_OTHER_USER") == "1"
        self._band = int(os.environ.get("FUZZ_BAND", "10000"))
        try:
            with open("/proc/sys/net/ipv4/ip_unprivileged_port_start", encoding="ascii") as file:
                self._first_free = int(file.read())
        except OSError:
            self._first_free = 1024

    def forbidden(self, kind: str) -> bool:
        """Whether this user could not have bound such a place itself."""
        if not self._other_user:
            return False
        return kind in ("honest", "closed", "symlink") or bool(kind == "privileged" and self._first_free > 900)

    def forbidden_name(self, name: object) -> bool:
        """Whether this user could not have bound a socket that has this name (as of ``getsockname``) itself."""
        if not self._other_user:
            return False
        if isinstance(name, tuple):
            port = int(name[1])
            return port == self._honest or 0 < port < min(self._first_free, 900)
        text = os.fsdecode(name) if isinstance(name, (str, bytes)) else ""
        return "/closed/" in text or "/link/" in text

    def text(self, kind: str, number: int) -> str:
        """Return the place as ``wire.addresses`` writes it."""
        port = self._band + number % 2000
        return {
            "port": f"127.{number >> 8 & 0x7F}.7.1:{port}",
            "datagram": f"udp:127.0.0.1:{port}",
            "wildcard": f"0.0.0.0:{port}",
            "ipv6": f"[::1]:{port}",
            "dual": f"[::]:{port}+v4",
            "privileged": f"127.0.0.1:{700 + number % 200}",
            "honest": f"127.0.0.1:{self._honest}",
            "elsewhere": f"192.0.2.1:{port}",
            "multicast": f"udp:224.0.0.251:{port}",
            "path": f"unix:{self._folder}/s{number % 50}",
            "relative": f"unix:s{number % 50}",
            "closed": f"unix:{self._folder}/closed/s{number % 50}",
            "symlink": f"unix:{self._folder}/link/s{number % 50}",
            "missing": f"unix:{self._folder}/missing/s",
            "abstract": f"unix:@fuzz-{number % 50}",
            "long": f"unix:/{'x' * (number % 200)}",
        }[kind]

    def sockaddr(self, kind: str, number: int) -> tuple[int, int, bytes]:
        """Return the family, the type and the bytes of a struct sockaddr."""
        text = self.text(kind, number)
        if text.startswith("unix:"):
            path = text[5:]
            name = b"\0" + path[1:].encode() if path.startswith("@") else path.encode() + b"\0"
            return socket.AF_UNIX, socket.SOCK_STREAM, struct.pack("=H", socket.AF_UNIX) + name
        type_ = socket.SOCK_DGRAM if text.startswith("udp:") else socket.SOCK_STREAM
        host, _, port = text.replace("udp:", "").replace("+v4", "").rpartition(":")
        packed = struct.pack("!H", int(port))
        if host.startswith("["):
            address = socket.inet_pton(socket.AF_INET6, host[1:-1])
            return socket.AF_INET6, type_, struct.pack("=H", socket.AF_INET6) + packed + bytes(4) + address + bytes(4)
        return socket.AF_INET, type_, struct.pack("=H", socket.AF_INET) + packed + socket.inet_aton(host) + bytes(8)
