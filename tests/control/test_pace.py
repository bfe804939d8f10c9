"""Paces: how often something may happen."""

from __future__ import annotations

import pytest

from cluster_service.server.rate_limits import PEERS, Pace, Paces, neighbourhood


def taken(pace: Pace, now: float) -> int:
    """How many can be taken at that moment."""
    count = 0
    while not pace.wait(now):
        pace.take()
        count += 1
    return count


def test_a_pace() -> None:
    pace = Pace(10.0, 3)
    assert taken(pace, 7.0) == 3
    assert pace.wait(7.0) == pytest.approx(0.1)
    assert pace.wait(7.04) == pytest.approx(0.06)
    assert taken(pace, 7.11) == 1
    assert taken(pace, 1000.0) == 3  # it gathers no more than the burst
    pace.give_back()
    assert taken(pace, 1000.0) == 1
    for _ in range(9):
        pace.give_back()
    assert taken(pace, 1000.0) == 3


def test_each_peer_has_its_own_and_is_forgotten_in_time() -> None:
    paces = Paces(1.0, 2)
    for peer in ("10.0.0.1", "10.0.0.1", "10.0.0.2"):
        assert not paces.waits(peer, 0.0)
        paces.take(peer, 0.0)
    assert (paces.waits("10.0.0.1", 0.0), paces.waits("10.0.0.2", 0.0)) == (True, False)
    paces.give_back("10.0.0.1")
    paces.give_back("never heard of")
    assert not paces.waits("10.0.0.1", 0.0)
    for number in range(PEERS):
        paces.take(f"peer {number}", 0.0)
    assert len(paces) == PEERS
    assert not paces.waits("10.0.0.2", 0.0)


@pytest.mark.parametrize(
    ("peer", "name"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("::1", "loopback"),
        ("127.0.0.1", "loopback"),
        ("127.255.0.9", "loopback"),
        ("::ffff:127.0.0.1", "loopback"),
        ("2001:db8::1", "2001:db8::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
    ],
)
def test_what_counts_as_one_peer(peer: str, name: str) -> None:
    assert neighbourhood(peer) == name
