"""Ports to serve on."""

from __future__ import annotations

import itertools
import os
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

BAND = 3000
"""Ports for each of the processes that pytest-xdist runs tests in: none takes another's, however briefly it is free."""


def _candidates() -> Iterator[int]:
    band = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 4
    shift = os.getpid() * 7
    return (20_000 + BAND * band + (shift + number) % BAND for number in itertools.count())


_CANDIDATES = _candidates()


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
    raise AssertionError("unreachable: the candidates never end")
