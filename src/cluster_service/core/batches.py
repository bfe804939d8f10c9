"""Which facts are taken in by one step.

A step costs time in proportion to the number of workers, so that 300 that die together must not cost 300 steps. Facts
about different workers do not depend on each other, and share a step. The facts about one worker do: one that became
ready and then exited has served. So each of them has a step of its own, but for what a worker wrote before it exited.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cluster_service.wire import facts

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

BATCH_LIMIT = 500
"""Facts in one step."""

_SHARED = (facts.Spawned, facts.SpawnFailed, facts.Exited, facts.Output, facts.Listening, facts.Ready, facts.Notified)


def split(arrived: Iterable[Any]) -> Iterator[list[Any]]:
    """Yield *arrived*, in their order, as the facts of each step. What is not about a worker has a step of its own."""
    batch: list[Any] = []
    last: dict[int, Any] = {}
    for fact in arrived:
        worker = getattr(fact, "worker", None) if isinstance(fact, _SHARED) else None
        before = last.get(worker) if worker is not None else None
        follows = before is None or (isinstance(fact, facts.Output) and isinstance(before, facts.Exited))
        if batch and (worker is None or not last or not follows or len(batch) == BATCH_LIMIT):
            yield batch
            batch, last = [], {}
        batch.append(fact)
        if worker is not None:
            last[worker] = fact
    if batch:
        yield batch
