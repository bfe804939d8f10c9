"""Limits, priority and CPU affinity, set on a new process before its program is executed.

The guardian itself raises its descriptor limit to the maximum and, if permitted, asks the kernel's OOM killer to kill
it last; child processes inherit neither. Nor do they inherit a limit that another process sets on the guardian later
(prlimit(1)): each gets the limits with which the guardian was started.

Settings that keep a worker secure (its user, umask, limits) are mandatory: without them, the worker does not start.
Preferences (priority, CPU affinity, oom_score_adj) only cause a log line if they are not permitted.
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
"""The guardian's oom_score_adj, if permitted: it is killed last, but can still be killed if it leaks memory."""

NAMES: dict[int, str] = {
    getattr(resource, name): name.removeprefix("RLIMIT_").lower()
    for name in dir(resource)
    if name.startswith("RLIMIT_") and name != "RLIMIT_OFILE"  # an alias of NOFILE
}
"""The names of all limits, by the numbers of ``resource``."""

_OOM = "/proc/self/oom_score_adj"

RLIMIT_LOCKS = 10
"""Not enforced by Linux since 2.4.25, on any architecture: its soft value marks a worker's processes."""
MARK_BITS = 32
"""Number of low bits of a mark that hold the worker's number."""


class Failure(Exception):
    """A program cannot be started as configured: a sentence for the operator."""


class Limits(NamedTuple):
    """Process settings for a program. Limits are keyed by the numbers of ``resource``; None or empty: unchanged."""

    found: dict[int, tuple[int, int]]
    """All limits with which the guardian was started. The process gets them, as far as permitted."""
    oom_score_adj: int | None = None
    umask: int | None = None
    nice: int | None = None
    cpus: tuple[int, ...] = ()
    rlimits: Mapping[int, tuple[int, int]] = MappingProxyType({})
    """The limits ordered for the program. It is not started without them."""
    mark: int = 0


def take_own() -> Limits:
    """Raise the guardian's own limits; return the original ones, for its child processes."""
    found = {number: resource.getrlimit(number) for number in NAMES}
    raise_descriptors()
    return Limits(found, _protect())


def raise_descriptors() -> None:
    """Raise this process's soft limit of descriptors to its hard limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def restore(limits: Limits) -> None:
    """Set the limits with which the guardian was started on this new process, except for descriptors.

    Call this first after fork: a limit set on the guardian since then may make everything else fail. The guardian's
    descriptors are still open at that point, possibly more than the process may have.
    """
    _set_as_found({number: pair for number, pair in limits.found.items() if number != resource.RLIMIT_NOFILE})


def _set_as_found(found: Mapping[int, tuple[int, int]]) -> None:
    """Set the limits *found*, capped at the current hard limit if it was lowered and cannot be raised."""
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
    """Lower our oom_score_adj and return the previous one; None if it is unchanged."""
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
    """Return the settings for a worker: those in the *order*, otherwise those *found*. Raises Failure.

    *mark*: identifies its descendants (``leftover_processes``).
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
    """Apply *limits* to this process, which still has the guardian's privileges. Raises Failure.

    *complain* receives a sentence for each preference that is not permitted.
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
    """Return the common part of all worker marks of a service: its random *instance*, above ``MARK_BITS``.

    It has 31 bits, because Python treats a limit as a signed number.
    """
    return int(instance[:8] or "0", 16) >> 1 << MARK_BITS


def set_mark(mark: int) -> None:
    """Mark this process and its future children with *mark*; 0: unlimited, the usual value. May have no effect."""
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
