"""Replacing workers, ready-first, as arithmetic over counts.

Worked example: 8 slots, ratio 0.33. ``surge`` is 2, so at most 10 workers stay at any time:

    old 8 new 0        start 2            (8 serving + 2 booting)
    one new serves     stop 1, start 1    (7 old + 1 new serving, 2 booting)
    ...                until no old one is left

A stale worker is stopped only when its successor in the same slot serves: the number that serve never falls below what
it was. Rolling back is the same arithmetic with the slot's generation set back; there is no other code for it. A worker
that is to be replaced by another of the same generation (it hangs, it is recycled) is stale too: so there is one budget
for all reasons together.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from .worker import Worker

RATIO = 0.33
"""The share of a group that may be in replacement at the same time."""


def surge(count: int, ratio: float = RATIO) -> int:
    """How many workers more than *count* may stay during a rollout: at least one."""
    return max(1, int(count * ratio))


class SlotPlan(NamedTuple):
    """What one slot needs now. ``wants``: nothing, ``start`` (it has no worker) or ``replace`` (it has a stale one)."""

    wants: str
    stop: tuple[Worker, ...]


def plan_alone(generation: int, workers: Sequence[Worker]) -> SlotPlan:
    """The same for a slot of which there are never two workers: the stale one has ended before the next starts."""
    staying = sorted((worker for worker in workers if worker.staying), key=lambda worker: worker.number)
    current = [worker for worker in staying if worker.is_of(generation)]
    extra = tuple(worker for worker in staying if worker not in current[:1])
    return SlotPlan("nothing" if workers else "start", extra)


def plan_slot(generation: int, workers: Sequence[Worker], *, hold: bool = False) -> SlotPlan:
    """Compare a slot's wanted *generation* with its *workers* (those leaving are ignored).

    *hold*: a stale worker that serves stays beside its successor, which is a canary.
    """
    staying = sorted((worker for worker in workers if worker.staying), key=lambda worker: worker.number)
    current = [worker for worker in staying if worker.is_of(generation)]
    stale = [worker for worker in staying if not worker.is_of(generation)]
    serving = [worker for worker in current if worker.serving]
    if serving:
        kept = [serving[0], *([worker for worker in stale if worker.serving][-1:] if hold else ())]
        return SlotPlan("nothing", tuple(worker for worker in staying if worker not in kept))
    keep_stale = [worker for worker in stale if worker.serving] or stale[:1]
    extra = tuple(worker for worker in stale if worker not in keep_stale)
    if current or extra:  # those that are too many go first; one that is only ordered cannot go yet
        return SlotPlan("nothing", extra)
    return SlotPlan("replace" if stale else "start", ())


def replacing(slots: Collection[int], workers: Iterable[Worker]) -> int:
    """How many of *slots* hold more than one worker: a stale one and its successor, which may be stale by now too."""
    staying = Counter(worker.slot for worker in workers if worker.staying and worker.slot in slots)
    return sum(count > 1 for count in staying.values())
