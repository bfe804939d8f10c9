"""Comparison of the error rates of a new and an old release.

Both are measured over the same time, so an outage of a database that both use counts against neither. It is Fisher's
exact test (R. A. Fisher, "The Design of Experiments", 1935, chapter 2): if both releases failed equally often, how
probable would so many failures of the new one be? If the old release has answered nothing, there is no comparison; then
the new release is worse only if more than half of its responses are errors.
"""

from __future__ import annotations

from math import exp, lgamma
from typing import NamedTuple

SIGNIFICANCE = 0.001
"""Probability below which a difference is not considered chance."""

NEGLIGIBLE_SHARE = 1e-9
"""Share of the sum below which a term and all later ones are ignored."""

MIN_ERRORS = 3
"""Fewest errors for which a release can be worse, whatever the probability."""

MIN_ERRORS_WITHOUT_COMPARISON = 5
"""The same if the old release has answered nothing."""


class ResponseCounts(NamedTuple):
    """Number of responses of a release, and of the server errors (500 to 599) among them."""

    total: int
    errors: int

    @property
    def share(self) -> float:
        """Share of errors, 0…1."""
        return self.errors / self.total if self.total else 0.0


def is_worse(new: ResponseCounts, old: ResponseCounts) -> bool:
    """Return whether *new* fails significantly more often than *old*."""
    if old.total == 0:
        return new.errors >= MIN_ERRORS_WITHOUT_COMPARISON and new.share > 0.5
    return (
        new.errors >= MIN_ERRORS and new.share > old.share and chance_probability(new, old, SIGNIFICANCE) < SIGNIFICANCE
    )


def chance_probability(new: ResponseCounts, old: ResponseCounts, enough: float = 1.0) -> float:
    """Return the probability that at least ``new.errors`` of all errors belong to the new release by chance.

    The sum ends when it reaches *enough*, or when the remaining terms are negligible, so it is short for any counts.
    """
    errors, total = new.errors + old.errors, new.total + old.total
    mean = new.total * errors / total if total else 0.0
    probability = 0.0
    for hits in range(new.errors, min(errors, new.total) + 1):
        one = _hypergeometric(hits, new.total, errors, total)
        probability += one
        if probability >= enough or (hits > mean and one <= NEGLIGIBLE_SHARE * probability):
            break
    return min(1.0, probability)


def _hypergeometric(hits: int, drawn: int, marked: int, total: int) -> float:
    """Return the probability of *hits* marked items among *drawn* of *total* items, *marked* of which are marked."""
    if marked - hits > total - drawn:
        return 0.0
    return exp(_log_binomial(marked, hits) + _log_binomial(total - marked, drawn - hits) - _log_binomial(total, drawn))


def _log_binomial(n: int, k: int) -> float:
    """Return the logarithm of the binomial coefficient."""
    return lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1)
