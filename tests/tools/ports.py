"""Ports to serve on."""

from __future__ import annotations

import itertools
import os
import socket

_CANDIDATES = itertools.cycle(range(20_000 + os.getpid() * 7 % 10_000, 32_000))


def free_port() -> int:
    """Return a port that nobody uses, on any address, for TCP and UDP.

    It is taken from below the range from which the kernel picks ports for outgoing connections, so that no client's
    connection can sit on it when the service comes to bind it.
    """
    for port in _CANDIDATES:
        try:
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                with socket.socket(socket.AF_INET6, kind) as probe:
                    probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
                    probe.bind(("::", port))
        except OSError:
            continue
        return port
    raise AssertionError("unreachable: the candidates are a cycle")
