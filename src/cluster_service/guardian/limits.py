"""What is set on a new process before its program is executed: limits, priority, processors.

The guardian itself has as many descriptors as it may, and is the last to be killed for want of memory where it may
choose so; no process that it starts inherits either. Nor does one inherit a limit that another process sets on the
guardian later (prlimit(1)): each gets the limits that the guardian was started with.

What makes a worker safe (its user, its umask, its limits) is never left out: then it does not start. What is only a
wish (priority, processors, whom the kernel kills first) costs a word in the log where it is not granted.
"""

from __future__ import annotations

import contextlib
import os
import resource
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from cluster_service.wire.orders import Spawn

PROTECTED = -900
"""oom_score_adj of the guardian, where it may: everything else goes before it, but a guardian that leaks can go too."""

NAMES: dict[int, str] = {
    getattr(resource, name): name.removeprefix("RLIMIT_").lower()
    for name in dir(resource)
    if name.startswith("RLIMIT_") and name != "RLIMIT_OFILE"  # another name of NOFILE
}
"""The names of all limits, by the numbers of ``resource``."""

_OOM = "/proc/self/oom_score_adj"

RLIMIT_LOCKS = 10
"""Linux has not enforced this limit since 2.4.25, on any architecture: its soft value marks a worker's processes."""
MARK_BITS = 32
"""Bits of a mark that are the worker's number."""


class Failure(Exception):
    """A program cannot be started as it should be: a sentence for the operator."""


class Limits(NamedTuple):
    """What a program's process gets. Limits are keyed by the numbers of ``resource``; None and nothing: as they are."""

    found: dict[int, tuple[int, int]]
    """Every limit that the guardian was started with. The process gets those, as far as it may."""
    oom_score_adj: int | None = None
    umask: int | None = None
    nice: int | None = None
    cpus: tuple[int, ...] = ()
    rlimits: Mapping[int, tuple[int, int]] = MappingProxyType({})
    """The limits that were ordered for the program. It is not started without them."""
    mark: int = 0


def take_own() -> Limits:
    """Raise the guardian's own limits; return those that it was started with, for its child processes."""
    found = {number: resource.getrlimit(number) for number in NAMES}
    raise_descriptors()
    return Limits(found, _protect())


def raise_descriptors() -> None:
    """Raise this process's soft limit of descriptors to its hard limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def restore(limits: Limits) -> None:
    """Give this new process the limits that the guardian was started with, but for that of descriptors.

    To be called first after fork: a limit that was set on the guardian since may let nothing else succeed. The
    descriptors of the guardian are still open then, more perhaps than the process may have.
    """
    _set_as_found({number: pair for number, pair in limits.found.items() if number != resource.RLIMIT_NOFILE})


def _set_as_found(found: Mapping[int, tuple[int, int]]) -> None:
    """Set the limits *found*; up to the present hard limit where that was lowered and may not be raised again."""
    for number, pair in found.items():
        present = resource.getrlimit(number)
        if present == pair:
            continue
        soft, hard = (_lower(limit, present[1]) for limit in pair)
        for each in (pair, (soft, hard)):
            try:
                resource.setrlimit(number, each)
            except (OSError, ValueError):
                continue
            break


def _lower(one: int, other: int) -> int:
    return min((one, other), key=lambda limit: float("inf") if limit == resource.RLIM_INFINITY else limit)


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


def for_worker(found: Limits, order: Spawn, mark: int = 0) -> Limits:
    """Return what a worker gets: what the *order* says, else what was *found*. Raises Failure.

    *mark*: what its descendants are known by (``remains``).
    """
    rlimits = {}
    for name, (soft, hard) in order.rlimits.items():
        number = getattr(resource, f"RLIMIT_{name}", None)
        if number is None:
            raise Failure(f"this system has no limit {name.lower()}")
        rlimits[number] = (int(soft), int(hard))
    return Limits(
        found.found,
        found.oom_score_adj if order.oom_score_adj is None else order.oom_score_adj,
        order.umask,
        order.nice,
        tuple(order.cpus),
        rlimits,
        mark,
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
    _set_as_found(limits.found)
    if limits.mark:
        set_mark(limits.mark)
    for number, pair in limits.rlimits.items():
        try:
            resource.setrlimit(number, pair)
        except (OSError, ValueError) as error:
            raise Failure(_explain(number, pair, error)) from None


def marks_of(instance: str) -> int:
    """Return what the marks of all workers of a service have in common: above ``MARK_BITS``, of its random *instance*.

    31 bits, since Python takes a limit for a signed number.
    """
    return int(instance[:8] or "0", 16) >> 1 << MARK_BITS


def set_mark(mark: int) -> None:
    """Mark this process, and what it will start, with *mark*; 0: unlimited, as most processes are. May do nothing."""
    with contextlib.suppress(OSError, ValueError, OverflowError):
        hard = resource.getrlimit(RLIMIT_LOCKS)[1]
        resource.setrlimit(RLIMIT_LOCKS, (mark or hard, hard))


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
    soft, hard = ("unlimited" if each == resource.RLIM_INFINITY else str(each) for each in pair)
    highest = resource.getrlimit(number)[1]
    may = "" if highest == resource.RLIM_INFINITY else f"; it may be at most {highest} here"
    return f"the limit {NAMES[number]}={soft}:{hard} cannot be set: {error}{may}"
