"""When a new release is said to answer worse than the old one."""

from __future__ import annotations

import pytest

from cluster_service.core.rules import error_rates
from cluster_service.core.rules.error_rates import ResponseCounts, chance_probability, is_worse


@pytest.mark.parametrize(
    ("new", "old", "verdict"),
    [
        ((0, 0), (0, 0), False),
        ((100, 0), (100, 0), False),
        ((100, 100), (100, 0), True),
        ((3, 3), (100, 0), True),  # three of three, and never before
        ((2, 2), (100, 0), False),  # two are nobody's fault
        ((200, 3), (200, 0), False),  # chance: 1 in 8
        ((200, 12), (200, 0), True),
        ((200, 20), (200, 18), False),
        ((200, 60), (200, 18), True),
        ((100, 50), (100, 100), False),  # fewer than before
        ((50, 50), (50, 50), False),  # a database that is down for both
        ((4, 4), (0, 0), False),  # nothing to compare with: more is asked for
        ((5, 5), (0, 0), True),
        ((10, 5), (0, 0), False),
        ((1_000_000, 2_000), (1_000_000, 1_000), True),
    ],
)
def test_verdicts(new: tuple[int, int], old: tuple[int, int], verdict: bool) -> None:
    assert is_worse(ResponseCounts(*new), ResponseCounts(*old)) is verdict


def test_the_chance_is_fishers() -> None:
    # the lady tasting tea: all four cups right, of eight, is 1 in 70
    assert chance_probability(ResponseCounts(4, 4), ResponseCounts(4, 0)) == pytest.approx(1 / 70)
    assert chance_probability(ResponseCounts(4, 3), ResponseCounts(4, 1)) == pytest.approx(17 / 70)
    assert chance_probability(ResponseCounts(4, 0), ResponseCounts(4, 4)) == pytest.approx(1.0)


@pytest.mark.parametrize("size", [10**6, 10**9])
def test_a_verdict_on_large_counts_is_a_short_sum(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    terms = 0
    exactly = error_rates._hypergeometric

    def counting(*arguments: int) -> float:
        nonlocal terms
        terms += 1
        return exactly(*arguments)

    monkeypatch.setattr(error_rates, "_hypergeometric", counting)
    assert is_worse(ResponseCounts(size, size), ResponseCounts(size, size // 2))
    assert not is_worse(ResponseCounts(size, size // 2 + 1), ResponseCounts(size, size // 2))
    assert is_worse(ResponseCounts(size, size // 2), ResponseCounts(size, size // 3))
    assert terms < 1000
