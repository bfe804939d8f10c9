"""How often something may happen, on the whole or for each peer. Pure: time is an argument, in monotonic seconds."""

from __future__ import annotations

import ipaddress
from collections import OrderedDict

PEERS = 1024
"""Peers that are remembered; the one that was heard of longest ago is forgotten first."""


class Pace:
    """A bucket of tokens: *burst* at first, and *rate* more a second."""

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = float(burst)
        self._left = self._burst
        self._at: float | None = None

    def wait(self, now: float) -> float:
        """Return how many seconds are to be waited for the next token; 0: there is one."""
        since = 0.0 if self._at is None else now - self._at
        self._left = min(self._burst, self._left + since * self._rate)
        self._at = now
        return max(0.0, (1.0 - self._left) / self._rate)

    def take(self) -> None:
        """Use one up."""
        self._left -= 1.0

    def give_back(self) -> None:
        """Let one that was taken not count."""
        self._left = min(self._burst, self._left + 1.0)


class Paces:
    """A pace for each peer."""

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = burst
        self._paces: OrderedDict[str, Pace] = OrderedDict()

    def __len__(self) -> int:
        """How many peers are remembered."""
        return len(self._paces)

    def waits(self, peer: str, now: float) -> bool:
        """Whether *peer* has used up its tokens."""
        pace = self._paces.get(neighbourhood(peer))
        return pace is not None and pace.wait(now) > 0.0

    def take(self, peer: str, now: float) -> None:
        """Use up one of *peer*'s."""
        name = neighbourhood(peer)
        pace = self._paces.pop(name, None) or Pace(self._rate, self._burst)
        pace.wait(now)
        pace.take()
        self._paces[name] = pace
        while len(self._paces) > PEERS:
            self._paces.popitem(last=False)

    def give_back(self, peer: str) -> None:
        """Let one that *peer* has taken not count."""
        pace = self._paces.get(neighbourhood(peer))
        if pace is not None:
            pace.give_back()


LOOPBACK = "loopback"


def neighbourhood(peer: str) -> str:
    """Return what counts as one source: an address, the /64 network that a single machine has to itself with IPv6, or
    all of loopback, whose addresses any process of this machine may use.
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
