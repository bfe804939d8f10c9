"""Whether a new release answers worse than the old one did beside it. Pure.

The two are compared over the same time, so a database that is down for both blames neither. The question is Fisher's
(R. A. Fisher, "The Design of Experiments", 1935, chapter 2): if both releases failed equally often, how probable would
it be that so many of the failures fell to the new one? Where the old release has answered nothing there is nothing to
compare with: then only a release that fails more often than not is blamed.
"""

from __future__ import annotations

from math import exp, lgamma
from typing import NamedTuple

IMPROBABLE = 0.001
"""Below this the difference is not taken for chance."""

NEGLIGIBLE = 1e-9
"""The share of the sum below which a term, and all after it, do not count."""

FEWEST = 3
"""Errors below which nobody is blamed, however improbable."""

ALONE = 5
"""The same where there is nothing to compare with."""


class Answers(NamedTuple):
    """How many answers a release gave, and how many of them were server errors (500 to 599)."""

    total: int
    errors: int

    @property
    def share(self) -> float:
        """The share of errors, 0…1."""
        return self.errors / self.total if self.total else 0.0


def worse(new: Answers, old: Answers) -> bool:
    """Whether *new* fails significantly more often than *old*."""
    if old.total == 0:
        return new.errors >= ALONE and new.share > 0.5
    return new.errors >= FEWEST and new.share > old.share and chance(new, old, IMPROBABLE) < IMPROBABLE


def chance(new: Answers, old: Answers, enough: float = 1.0) -> float:
    """Return how probable it is that at least ``new.errors`` of all the errors fall to the new release by chance.

    The sum ends where it is *enough*, or where what is left does not count: it is short, however large the counts.
    """
    errors, total = new.errors + old.errors, new.total + old.total
    mean = new.total * errors / total if total else 0.0
    probability = 0.0
    for hits in range(new.errors, min(errors, new.total) + 1):
        one = _exactly(hits, new.total, errors, total)
        probability += one
        if probability >= enough or (hits > mean and one <= NEGLIGIBLE * probability):
            break
    return min(1.0, probability)


def _exactly(hits: int, drawn: int, marked: int, total: int) -> float:
    """The hypergeometric probability of *hits* marked ones among *drawn* of *total*, *marked* of which are marked."""
    if marked - hits > total - drawn:
        return 0.0
    return exp(_choose(marked, hits) + _choose(total - marked, drawn - hits) - _choose(total, drawn))


def _choose(n: int, k: int) -> float:
    """The logarithm of the binomial coefficient."""
    return lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1)
