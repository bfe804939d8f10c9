"""Rate limits, in total or per peer. Pure: the time is an argument, in monotonic seconds."""

from __future__ import annotations

import ipaddress
from collections import OrderedDict

PEERS = 1024
"""Maximum number of peers remembered; the least recently counted one is dropped first."""


class Pace:
    """A token bucket: *burst* tokens at first, refilled at *rate* per second."""

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = float(burst)
        self._left = self._burst
        self._at: float | None = None

    def wait(self, now: float) -> float:
        """Return the seconds until the next token; 0: one is available."""
        since = 0.0 if self._at is None else now - self._at
        self._left = min(self._burst, self._left + since * self._rate)
        self._at = now
        return max(0.0, (1.0 - self._left) / self._rate)

    def take(self, tokens: float = 1.0) -> None:
        """Take *tokens*; the balance may become negative."""
        self._left -= tokens

    def give_back(self) -> None:
        """Return one token."""
        self._left = min(self._burst, self._left + 1.0)


class Paces:
    """A token bucket per peer."""

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = burst
        self._paces: OrderedDict[str, Pace] = OrderedDict()

    def __len__(self) -> int:
        """Return the number of peers remembered."""
        return len(self._paces)

    def waits(self, peer: str, now: float) -> bool:
        """Return True if *peer* has no token left."""
        pace = self._paces.get(neighbourhood(peer))
        return pace is not None and pace.wait(now) > 0.0

    def take(self, peer: str, now: float) -> None:
        """Take one token of *peer*."""
        name = neighbourhood(peer)
        pace = self._paces.pop(name, None) or Pace(self._rate, self._burst)
        pace.wait(now)
        pace.take()
        self._paces[name] = pace
        while len(self._paces) > PEERS:
            self._paces.popitem(last=False)

    def give_back(self, peer: str) -> None:
        """Return one token of *peer*."""
        pace = self._paces.get(neighbourhood(peer))
        if pace is not None:
            pace.give_back()


LOOPBACK = "loopback"


def neighbourhood(peer: str) -> str:
    """Return the key under which *peer* is counted.

    This is its IPv4 address, its IPv6 /64 network (which one machine has to itself), or ``loopback`` for all loopback
    addresses, since any process of this machine may use each of them.
    """
    try:
        address = ipaddress.ip_address(peer.partition("%")[0])
    except ValueError:
        return peer
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return neighbourhood(str(address.ipv4_mapped))
        if not address.is_loopback:
            return str(ipaddress.IPv6Network((int(address) >> 64 << 64, 64)))
    return LOOPBACK if address.is_loopback else str(address)
