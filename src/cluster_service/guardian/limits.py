"""What is set on a new process before its program is executed: limits, priority, processors.

The guardian itself has as many descriptors as it may, and is the last to be killed for want of memory where it may
choose so; no process that it starts inherits either.

What makes a worker safe (its user, its umask, its limits) is never left out: then it does not start. What is only a
wish (priority, processors, whom the kernel kills first) costs a word in the log where it is not granted.
"""

from __future__ import annotations

import contextlib
import os
import resource
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    from cluster_service.wire.orders import Spawn

PROTECTED = -900
"""oom_score_adj of the guardian, where it may: everything else goes before it, but a guardian that leaks can go too."""

_OOM = "/proc/self/oom_score_adj"


class Failure(Exception):
    """A program cannot be started as it should be: a sentence for the operator."""


class Limits(NamedTuple):
    """What a program's process gets. *rlimits*: by the numbers of ``resource``; None and nothing: as they are."""

    rlimits: dict[int, tuple[int, int]]
    oom_score_adj: int | None = None
    umask: int | None = None
    nice: int | None = None
    cpus: tuple[int, ...] = ()


def take_own() -> Limits:
    """Let the guardian have what is good for it; return what there was before, for the programs."""
    return Limits({resource.RLIMIT_NOFILE: raise_descriptors()}, _protect())


def raise_descriptors() -> tuple[int, int]:
    """Let this process have as many descriptors as it may; return the limits as they were."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return soft, hard


def _protect() -> int | None:
    """Return the oom_score_adj that was ours before; None: we still have it, since another one is not to be had."""
    try:
        with open(_OOM, encoding="ascii") as file:
            found = int(file.read())
        if found <= PROTECTED:
            return None
        _set_oom_score_adj(PROTECTED)
    except (OSError, ValueError):
        return None
    return found


def for_worker(found: Limits, order: Spawn) -> Limits:
    """Return what a worker gets: what the *order* says, else what was *found*. Raises Failure."""
    rlimits = dict(found.rlimits)
    for name, (soft, hard) in order.rlimits.items():
        number = getattr(resource, f"RLIMIT_{name}", None)
        if number is None:
            raise Failure(f"this system has no limit {name.lower()}")
        rlimits[number] = (int(soft), int(hard))
    return Limits(
        rlimits,
        found.oom_score_adj if order.oom_score_adj is None else order.oom_score_adj,
        order.umask,
        order.nice,
        tuple(order.cpus),
    )


def put_on(limits: Limits, complain: Callable[[str], None]) -> None:
    """Set *limits* on this process, which still has the rights of the guardian. Raises Failure.

    *complain* is given a sentence for each wish that is not granted.
    """
    if limits.umask is not None:
        os.umask(limits.umask)
    for what, act in _wishes(limits).items():
        try:
            act()
        except OSError as error:
            complain(f"{what} is not to be had ({error.strerror}): the worker runs without")
    for number, pair in limits.rlimits.items():
        try:
            resource.setrlimit(number, pair)
        except (OSError, ValueError) as error:
            raise Failure(_explain(number, pair, error)) from None


def _wishes(limits: Limits) -> dict[str, Callable[[], None]]:
    nice, cpus, score = limits.nice, limits.cpus, limits.oom_score_adj
    found: dict[str, Callable[[], None]] = {}
    if score is not None:
        found[f"oom_score_adj {score}"] = lambda: _set_oom_score_adj(score)
    if nice is not None:
        found[f"nice {nice}"] = lambda: os.setpriority(os.PRIO_PROCESS, 0, nice)
    if cpus:
        found[f"cpu_affinity {','.join(map(str, cpus))}"] = lambda: os.sched_setaffinity(0, cpus)
    return found


def _set_oom_score_adj(score: int) -> None:
    with open(_OOM, "w", encoding="ascii") as file:
        file.write(str(score))


def _explain(number: int, pair: tuple[int, int], error: Exception) -> str:
    name = next(key for key in dir(resource) if key.startswith("RLIMIT_") and getattr(resource, key) == number)
    soft, hard = ("unlimited" if each == resource.RLIM_INFINITY else str(each) for each in pair)
    highest = resource.getrlimit(number)[1]
    may = "" if highest == resource.RLIM_INFINITY else f"; it may be at most {highest} here"
    return f"the limit {name.removeprefix('RLIMIT_').lower()}={soft}:{hard} cannot be set: {error}{may}"
