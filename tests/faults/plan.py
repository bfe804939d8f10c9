"""What is done to the service, and when. Pure: from the seed alone, or from a story that is told again.

A round is some faults that may overlap; after it everything is left to come to rest, and is looked at. Each fault has a
seed of its own, from which it chooses whom it hits, how and for how long.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from random import Random
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

MOST_AT_ONCE = 4
LONGEST_PAUSE = 3.0


@dataclass(frozen=True)
class Step:
    """One fault of a round."""

    after: float
    """Seconds since the step before, or since the round began."""
    fault: str
    seed: int

    def __str__(self) -> str:
        return f"{self.fault} ({self.seed})"


Round = list[Step]


def drawn(seed: int, weights: Mapping[str, float]) -> Iterator[Round]:
    """The rounds of *seed*, without end. *weights*: fault → how often it is wanted, against the others."""
    random = Random(seed)
    names = sorted(weights)
    while True:
        count = random.randint(1, MOST_AT_ONCE)
        chosen = random.choices(names, [weights[name] for name in names], k=count)
        yield [Step(round(random.uniform(0, LONGEST_PAUSE), 3), name, random.getrandbits(32)) for name in chosen]


def told(records: Iterable[Mapping[str, Any]]) -> Iterator[Round]:
    """The rounds of a story, as it was written."""
    for record in records:
        if record.get("what") == "round":
            yield [Step(**step) for step in record["steps"]]


def to_json(steps: Round) -> list[dict[str, Any]]:
    """What ``told`` reads."""
    return [asdict(step) for step in steps]
