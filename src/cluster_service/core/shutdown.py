"""The order in which groups end: a group ends after every group that depends on it and ends too.

So a program that drains (a task queue, a web application) still reaches what it depends on. Groups that do not depend
on each other end at the same time. While a group waits for its turn it is kept running: a worker of it that fails is
replaced.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from .cluster_state import ClusterState
    from .group import Group
    from .spec import GroupSpec
    from .worker import Worker


def is_alive(cluster: ClusterState, group: Group) -> bool:
    """Whether it has a worker, is to have one, or has something that a worker left, which may still answer requests."""
    left = any(worker.left for worker in cluster.workers.values() if worker.group == group.name)
    return bool(group.slots or left or cluster.of_group(group.name))


def dependents(name: str, groups: Iterable[Group]) -> list[str]:
    """The *groups* that depend on the group *name*."""
    return [group.name for group in groups if any(name == each for each, _ in group.spec.depends_on)]


def order(depends: Mapping[str, Collection[str]]) -> list[list[str]]:
    """Return the groups of *depends* (group → what it depends on) in the order in which they end: those of one list end
    together, after all lists before it. The groups of a circle are in one list.
    """
    left = {name: set(on) & depends.keys() - {name} for name, on in depends.items()}
    stages = []
    while left:
        free = [name for name in left if not any(name in on for on in left.values())]
        stages.append(free or list(left))
        left = {name: on for name, on in left.items() if name not in stages[-1]}
    return stages


def longest(depends: Mapping[str, Collection[str]], timeouts: Mapping[str, float]) -> float:
    """Return the seconds after which the last worker is killed: the longest sum of *timeouts* along dependencies."""
    took: dict[str, float] = {}
    for stage in order(depends):
        for name in stage:
            before = [took[each] for each, on in depends.items() if name in on and each in took and each not in stage]
            took[name] = max(before, default=0.0) + timeouts[name]
    return max(took.values(), default=0.0)


def configured_time(specs: Iterable[GroupSpec]) -> float:
    """Return the seconds that groups as configured take to end, at most."""
    groups = list(specs)
    return longest(
        {group.name: [name for name, _ in group.depends_on] for group in groups},
        {group.name: group.stop_timeout for group in groups},
    )


def time_needed(cluster: ClusterState) -> float:
    """Return the seconds after which every worker has been asked to end and, if it has not, been killed."""
    timeouts = {}
    for name, group in cluster.groups.items():
        workers = [stop_timeout(cluster, worker) for worker in cluster.of_group(name)]
        slots = [group.spec.stop_timeout if slot.timeout is None else slot.timeout for slot in group.slots.values()]
        timeouts[name] = max([*workers, *slots], default=0.0)
    return longest(_depends(cluster), timeouts)


def order_text(cluster: ClusterState) -> str:
    """Return what is announced of the order and the time; empty where all groups end at the same time."""
    lives = {name for name, group in cluster.groups.items() if is_alive(cluster, group)}
    depends = {name: on for name, on in _depends(cluster).items() if name in lives}
    stages = order(depends)
    if len(stages) < 2:
        return ""
    return f"ending {', then '.join(' and '.join(stage) for stage in stages)}; within {time_needed(cluster):g} s"


def _depends(cluster: ClusterState) -> dict[str, list[str]]:
    return {name: [each for each, _ in group.spec.depends_on] for name, group in cluster.groups.items()}

BOOT_STOP = 10.0
"""Seconds that a worker which was never ready has to end."""

HANG_STOP = 5.0
"""Seconds that a worker which hangs has to end: it will hardly hear that it is asked to."""


def stop_timeout(cluster: ClusterState, worker: Worker) -> float:
    """Seconds that *worker* has to end when it is asked to."""
    group = cluster.groups.get(worker.group)
    if worker.retire == "hang":
        return HANG_STOP
    if worker.stop_timeout is not None:
        return worker.stop_timeout
    slot = group.slots.get(worker.slot) if group else None
    if slot is not None and slot.timeout is not None:
        return slot.timeout
    return group.spec.stop_timeout if group else BOOT_STOP
