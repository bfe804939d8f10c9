"""When workers are replaced and failed slots are retried. Ready-first replacement is arithmetic over counts.

Worked example: 8 slots, ratio 0.33. ``surge`` is 2, so at most 10 workers stay at any time:

    old 8 new 0        start 2            (8 serving + 2 booting)
    one new serves     stop 1, start 1    (7 old + 1 new serving, 2 booting)
    ...                until no old one is left

An outdated worker is stopped only when its successor in the same slot serves, so the number of serving workers never
falls below its initial value. A rollback is the same arithmetic with the previous generation. A worker that is replaced
by one of the same generation (it hangs or is recycled) counts as outdated too, so all reasons share one budget.

Retries follow Erlang's supervisors (intensity and period, supervisor(3)) for each slot, with exponential back-off: the
first restart comes after ``policy.delay`` seconds, each further one after twice the time, at most ``MAX_DELAY``. A slot
that fails more than ``policy.per_minute`` times in 60 seconds is *broken*: it is retried every ``policy.slow_pace``
seconds until one of its workers has served for ``STEADY_SECONDS``. A failing slot never ends the service.

With delay 0.1 and per_minute 10, a program that fails at once is started at 0.1, 0.3, 0.7, 1.5, 3.1, 6.3, 11.3, 16.3,
21.3 and 26.3 seconds, and is then broken.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from cluster_service.core.model.spec import RestartPolicy
    from cluster_service.core.model.worker import History, Worker

SURGE_RATIO = 0.33
"""Most workers of a group that are replaced at the same time, as a share."""


def surge(count: int, ratio: float = SURGE_RATIO) -> int:
    """Return how many additional workers may run during a replacement: at least one."""
    return max(1, int(count * ratio))


class SlotPlan(NamedTuple):
    """What one slot needs. ``wants``: nothing, ``start`` (no worker) or ``replace`` (an outdated worker)."""

    wants: str
    stop: tuple[Worker, ...]


def plan_singleton(generation: int, workers: Sequence[Worker]) -> SlotPlan:
    """Return the plan of a singleton's slot: its outdated worker exits before the next one starts."""
    staying = sorted((worker for worker in workers if worker.staying), key=lambda worker: worker.number)
    current = [worker for worker in staying if worker.is_of(generation)]
    extra = tuple(worker for worker in staying if worker not in current[:1])
    return SlotPlan("nothing" if workers else "start", extra)


def plan_slot(generation: int, workers: Sequence[Worker], *, hold: bool = False) -> SlotPlan:
    """Return the plan of a slot from its desired *generation* and its *workers*; stopping workers are ignored.

    *hold*: an outdated worker that serves keeps running beside its successor, a canary.
    """
    staying = sorted((worker for worker in workers if worker.staying), key=lambda worker: worker.number)
    current = [worker for worker in staying if worker.is_of(generation)]
    outdated = [worker for worker in staying if not worker.is_of(generation)]
    serving = [worker for worker in current if worker.serving]
    if serving:
        kept = [serving[0], *([worker for worker in outdated if worker.serving][-1:] if hold else ())]
        return SlotPlan("nothing", tuple(worker for worker in staying if worker not in kept))
    keep_outdated = [worker for worker in outdated if worker.serving] or outdated[:1]
    extra = tuple(worker for worker in outdated if worker not in keep_outdated)
    if current or extra:  # surplus workers stop first; one that is only ordered cannot stop yet
        return SlotPlan("nothing", extra)
    return SlotPlan("replace" if outdated else "start", ())


def count_replacing(slots: Collection[int], workers: Iterable[Worker]) -> int:
    """Return how many of *slots* have an outdated worker and a successor (which may be outdated by now too)."""
    staying = Counter(worker.slot for worker in workers if worker.staying and worker.slot in slots)
    return sum(count > 1 for count in staying.values())


MAX_DELAY = 5.0
"""Most seconds between two attempts of a slot that is not broken."""

JITTER = 0.2
"""Most by which a delay is lengthened, as a share, so that slots which failed together do not restart together."""


class NextAttempt(NamedTuple):
    """When to retry (None: not automatically), and whether the slot is broken."""

    at: float | None
    broken: bool


def next_attempt(policy: RestartPolicy, history: History, now: float, jitter: float) -> NextAttempt:
    """Return the next attempt of a slot that has just failed. *jitter*: 0…1, chosen by the caller."""
    if not policy.auto_restart:
        return NextAttempt(None, broken=True)
    if history.broken or len(history.failures) > policy.per_minute:
        return NextAttempt(now + policy.slow_pace * (1 + JITTER * jitter), broken=True)
    delay = min(max(MAX_DELAY, policy.delay), policy.delay * 2 ** (min(history.streak, 30) - 1))
    return NextAttempt(now + delay * (1 + JITTER * jitter), broken=False)
