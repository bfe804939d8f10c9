"""Requests: what is wanted. Each checks, then edits slots and generations and starts an operation that watches.

A request that is refused raises Rejected before it has changed anything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import actions, judge
from .group import Group
from .requests import Rejected
from .selectors import select

if TYPE_CHECKING:
    from .cluster import Cluster
    from .requests import ExitNow, Restart, Scale, Shutdown, StartGroup

MOST = 1024
"""Workers in one group."""


def restart(cluster: Cluster, request: Restart, now: float) -> None:
    """Want a new generation in the slots that are meant."""
    _refuse_when_ending(cluster)
    slots = select(request.selector, cluster.groups, cluster.workers.values())
    names = {name for name, _ in slots}
    for operation in cluster.running():
        if operation.groups & names and operation.kind in ("start", "restart"):
            raise Rejected(
                "busy",
                f"operation {operation.id} ({operation.command}) is still running in this group",
                f"wait for it with: operations {operation.id}",
            )
    generations = {name: cluster.groups[name].next_generation() for name in sorted(names)}
    for name, number in slots:
        cluster.groups[name].slots[number].renew(generations[name], "restart", request.timeout)
    operation = judge.begin(cluster, "restart", f"restart {request.selector}", [[n, s] for n, s in slots], now)
    operation.generations = generations


def scale(cluster: Cluster, request: Scale, now: float) -> None:
    """Want another number of slots."""
    _refuse_when_ending(cluster)
    group = _group(cluster, request.group)
    count = _count(request.change, len(group.slots))
    before = set(group.slots)
    group.resize(count)
    changed = sorted(before ^ set(group.slots))
    for number in changed:
        if number in group.slots:
            group.slots[number].timeout = request.timeout
    _set_stop_timeout(cluster, group.name, [number for number in changed if number in before], request.timeout)
    judge.begin(
        cluster, "scale", f"scale {request.change} {group.name}", [[group.name, number] for number in changed], now
    )


def shutdown(cluster: Cluster, request: Shutdown, now: float) -> None:
    """Want the slots that are meant no more."""
    _refuse_when_ending(cluster)
    if request.selector == "all":
        shutdown_all(cluster, request.timeout, now)
        return
    slots = select(request.selector, cluster.groups, cluster.workers.values())
    for name, number in slots:
        cluster.groups[name].leave_reason = "shutdown"
        del cluster.groups[name].slots[number]
        _set_stop_timeout(cluster, name, [number], request.timeout)
    judge.begin(cluster, "shutdown", f"shutdown {request.selector}", [[n, s] for n, s in slots], now)


def start_group(cluster: Cluster, request: StartGroup, now: float) -> None:
    """Want a further group."""
    _refuse_when_ending(cluster)
    name = request.group.name
    if name in cluster.groups and (cluster.groups[name].slots or cluster.of_group(name)):
        raise Rejected("bad_request", f"there is a group {name!r} already", "give another name with --group")
    cluster.groups[name] = Group.new(request.group, at_a_time=1)
    judge.begin(
        cluster,
        "start",
        f"start {request.group.release.target}",
        [[name, number] for number in cluster.groups[name].slots],
        now,
    )


def exit_now(cluster: Cluster, _request: ExitNow, _now: float) -> None:
    """Want the end, at once."""
    cluster.ending, cluster.ended = "exit", True
    cluster.todo.append(actions.End(0, now=True))


def shutdown_all(cluster: Cluster, timeout: float | None, now: float) -> None:
    """Want no worker any more, whatever is under way."""
    for operation in cluster.running():
        judge.finish(cluster, operation, "cancelled", "the service is shutting down", now)
    slots = [[name, number] for name, group in cluster.groups.items() for number in group.slots]
    cluster.end_service("shutdown", 0)
    for name in cluster.groups:
        _set_stop_timeout(cluster, name, None, timeout)
    judge.begin(cluster, "shutdown", "shutdown all", slots, now)


def _refuse_when_ending(cluster: Cluster) -> None:
    if cluster.ending:
        raise Rejected("stopping", "the service is shutting down", "start it again when it has ended")


def _group(cluster: Cluster, name: str | None) -> Group:
    if name is None and len(cluster.groups) == 1:
        return next(iter(cluster.groups.values()))
    if name not in cluster.groups:
        known = ", ".join(cluster.groups)
        what = f"there is no group {name!r}" if name else "there are several groups"
        raise Rejected("not_found" if name else "bad_request", what, f"name one of: {known}")
    return cluster.groups[name]


def _set_stop_timeout(cluster: Cluster, group: str, slots: list[int] | None, timeout: float | None) -> None:
    for worker in cluster.of_group(group):
        if timeout is not None and (slots is None or worker.slot in slots):
            worker.stop_timeout = timeout


def _count(change: str, now: int) -> int:
    """``4``, ``+1``, ``-2`` → the new count. Raises Rejected."""
    digits = change.lstrip("+-")
    if not digits.isdecimal() or len(change) - len(digits) > 1:
        raise Rejected("bad_request", f"{change!r} is not a count", "write 4, +1 or -1")
    signs = {"+": now + int(digits), "-": now - int(digits)}
    count = signs.get(change[0], int(digits))
    if not 0 <= count <= MOST:
        raise Rejected("bad_request", f"{count} workers are not possible", f"ask for 0 to {MOST}")
    return count
