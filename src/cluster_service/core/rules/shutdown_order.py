"""The order in which groups stop, and how long this takes.

A group stops after all stopping groups that depend on it, so a program that drains (a task queue, a web application)
still reaches its dependencies. Independent groups stop at the same time. While a group waits, it keeps running: a
worker that fails is replaced.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from cluster_service.core.model.cluster_state import ClusterState
    from cluster_service.core.model.group import Group
    from cluster_service.core.model.spec import GroupSpec
    from cluster_service.core.model.worker import Worker


def is_alive(cluster: ClusterState, group: Group) -> bool:
    """Return whether *group* has slots, workers, or processes left by workers, which may still answer requests."""
    left = any(worker.left for worker in cluster.workers.values() if worker.group == group.name)
    return bool(group.slots or left or cluster.workers_of(group.name))


def list_dependents(name: str, groups: Iterable[Group]) -> list[str]:
    """Return the names of the *groups* that depend on the group *name*."""
    return [group.name for group in groups if any(name == each for each, _ in group.spec.depends_on)]


def shutdown_stages(depends: Mapping[str, Collection[str]]) -> list[list[str]]:
    """Return the groups of *depends* (group → its dependencies) in the order in which they stop.

    The groups of one list stop together, after all lists before it. The groups of a dependency cycle are in one list.
    """
    left = {name: set(on) & depends.keys() - {name} for name, on in depends.items()}
    stages = []
    while left:
        free = [name for name in left if not any(name in on for on in left.values())]
        stages.append(free or list(left))
        left = {name: on for name, on in left.items() if name not in stages[-1]}
    return stages


def longest_shutdown(depends: Mapping[str, Collection[str]], timeouts: Mapping[str, float]) -> float:
    """Return the seconds until the last worker is killed: the longest sum of *timeouts* along the dependencies."""
    took: dict[str, float] = {}
    for stage in shutdown_stages(depends):
        for name in stage:
            before = [took[each] for each, on in depends.items() if name in on and each in took and each not in stage]
            took[name] = max(before, default=0.0) + timeouts[name]
    return max(took.values(), default=0.0)


def configured_shutdown_time(specs: Iterable[GroupSpec]) -> float:
    """Return the most seconds that groups take to stop, as configured."""
    groups = list(specs)
    return longest_shutdown(
        {group.name: [name for name, _ in group.depends_on] for group in groups},
        {group.name: group.stop_timeout for group in groups},
    )


def remaining_shutdown_time(cluster: ClusterState) -> float:
    """Return the most seconds until every worker has exited or been killed."""
    timeouts = {}
    for name, group in cluster.groups.items():
        workers = [stop_timeout(cluster, worker) for worker in cluster.workers_of(name)]
        slots = [group.spec.stop_timeout if slot.timeout is None else slot.timeout for slot in group.slots.values()]
        timeouts[name] = max([*workers, *slots], default=0.0)
    return longest_shutdown(_dependencies(cluster), timeouts)


def describe_order(cluster: ClusterState) -> str:
    """Return the order and the time as a sentence; empty if all groups stop at the same time."""
    lives = {name for name, group in cluster.groups.items() if is_alive(cluster, group)}
    depends = {name: on for name, on in _dependencies(cluster).items() if name in lives}
    stages = shutdown_stages(depends)
    if len(stages) < 2:
        return ""
    names = ", then ".join(" and ".join(stage) for stage in stages)
    return f"ending {names}; within {remaining_shutdown_time(cluster):g} s"


def _dependencies(cluster: ClusterState) -> dict[str, list[str]]:
    return {name: [each for each, _ in group.spec.depends_on] for name, group in cluster.groups.items()}

UNREADY_STOP_SECONDS = 10.0
"""Seconds that a worker which was never ready has to exit."""

HUNG_STOP_SECONDS = 5.0
"""Seconds that a worker which hangs has to exit; it will probably not handle its stop signal."""


def stop_timeout(cluster: ClusterState, worker: Worker) -> float:
    """Return the seconds that *worker* has to exit when it is stopped."""
    group = cluster.groups.get(worker.group)
    if worker.retire == "hang":
        return HUNG_STOP_SECONDS
    if worker.stop_timeout is not None:
        return worker.stop_timeout
    slot = group.slots.get(worker.slot) if group else None
    if slot is not None and slot.timeout is not None:
        return slot.timeout
    return group.spec.stop_timeout if group else UNREADY_STOP_SECONDS
