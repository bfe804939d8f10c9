"""Which slots an operator means by ``all``, ``web``, ``web.2``, ``2``, ``4711`` or ``pid:4711``."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from .operations import MAX_RUNNING, Operation
from .requests import Rejected
from .stages import KINDS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from .cluster_state import ClusterState
    from .group import Group
    from .worker import Worker


def select(selector: str, groups: Mapping[str, Group], workers: Iterable[Worker]) -> list[tuple[str, int]]:
    """Return the ``(group, slot)`` that *selector* names, in order. Raises Rejected (not_found, bad_request).

    A bare number is a slot where a slot of that number exists, else a pid: in a container pids are small too, and
    ``pid:7`` says which is meant.
    """
    if selector == "all":
        return [(name, number) for name, group in groups.items() for number in sorted(group.slots)]
    if selector in groups:
        return [(selector, number) for number in sorted(groups[selector].slots)]
    name, _, number = selector.rpartition(".")
    if name in groups and number.isdecimal():
        if int(number) not in groups[name].slots:
            raise Rejected("not_found", f"group {name!r} has no slot {number}", _slots(groups))
        return [(name, int(number))]
    if selector.isdecimal():
        found = [group for group in groups if int(selector) in groups[group].slots]
        if len(found) > 1:
            options = " or ".join(f"{group}.{selector}" for group in found)
            raise Rejected("bad_request", f"slot {selector} exists in several groups", f"write {options}")
        if found:
            return [(found[0], int(selector))]
    pid = selector.removeprefix("pid:")
    if pid.isdecimal():
        return [_by_pid(int(pid), groups, workers)]
    near = difflib.get_close_matches(selector, ["all", *groups], 1)
    hint = f"did you mean {near[0]}?" if near else "write all, a group, a slot or a pid (see: workers)"
    raise Rejected("not_found", f"there is no group, slot or worker {selector!r}", hint)


def _by_pid(pid: int, groups: Mapping[str, Group], workers: Iterable[Worker]) -> tuple[str, int]:
    for worker in workers:
        if worker.pid == pid and worker.state != "gone":
            if not worker.staying or worker.slot not in groups[worker.group].slots:
                raise Rejected(
                    "not_found", f"the worker with pid {pid} ({worker.name}) is ending already", "see: workers"
                )
            return worker.group, worker.slot
    raise Rejected("not_found", f"there is no worker with pid {pid}, and no slot {pid}", "see: workers")


def _slots(groups: Mapping[str, Group]) -> str:
    return "; ".join(f"{name}: {', '.join(map(str, sorted(group.slots)))}" for name, group in groups.items())

ROLLING = KINDS | {"start", "restart"}
"""Operations of which a group has one at a time."""


def when_ending(cluster: ClusterState) -> None:
    """Raise Rejected while the service is on its way to its end."""
    if cluster.ending:
        raise Rejected("stopping", "the service is shutting down", "start it again when it has ended")


def when_no_more(cluster: ClusterState) -> None:
    """Raise Rejected where no further operation may begin."""
    when_ending(cluster)
    if len(cluster.running()) >= MAX_RUNNING:
        raise Rejected(
            "busy",
            f"{MAX_RUNNING} operations are running, which is the most that may run at a time",
            "wait until some have ended (see: operations)",
        )


def while_rolling(cluster: ClusterState, names: set[str]) -> None:
    """Raise Rejected while workers of one of the groups *names* are being replaced, or a group is being ended."""
    while_leaving(cluster, names)
    operation = rolling(cluster, names)
    if operation is not None:
        raise Rejected(
            "busy",
            f"operation {operation.id} ({operation.command}) is still running in this group",
            f"wait for it (operations {operation.id}) or end it (cancel {operation.id})",
        )


def while_leaving(cluster: ClusterState, names: set[str]) -> None:
    """Raise Rejected while one of the groups *names* is being ended."""
    for name in sorted(names & cluster.groups.keys()):
        if cluster.groups[name].leaving:
            raise Rejected("busy", f"group {name!r} is being shut down", "wait until it has ended (see: operations)")


def rolling(cluster: ClusterState, names: set[str]) -> Operation | None:
    """The operation by which workers of one of the groups *names* are being replaced, or started for the first time."""
    busy = (each for each in cluster.running() if each.groups & names and each.kind in ROLLING)
    return next(busy, None)

MAX_WORKERS = 1024
"""Workers in one group."""

CANCELLABLE = KINDS | {"restart", "test"}
"""Operations that can be: what they have changed can be changed back."""


def refuse_to_roll(cluster: ClusterState, group: Group, slots: list[int]) -> None:
    """Raise Rejected unless *slots* of *group* can be moved to another release now."""
    while_rolling(cluster, {group.name})
    if not slots:
        raise Rejected("bad_request", f"group {group.name!r} has no workers", f"scale it first: scale 1 {group.name}")


def group_of(cluster: ClusterState, selector: str) -> Group:
    """The one group that *selector* is about, all of it or some slots. Raises Rejected."""
    slots = select(selector, cluster.groups, cluster.workers.values())
    return one_group(cluster, {name for name, _ in slots}, selector)


def one_group(cluster: ClusterState, names: set[str], selector: str) -> Group:
    """Return the only group of *names*, which *selector* selects. Raises Rejected if there are several."""
    if len(names) > 1:
        raise Rejected(
            "bad_request",
            f"{selector} means several groups ({', '.join(sorted(names))}), and one release is for one of them",
            "name the group",
        )
    return cluster.groups[next(iter(names))] if names else find_group(cluster, None)


def find_cancellable(cluster: ClusterState, wanted: str | None) -> Operation:
    """Return the operation with the id *wanted*; None: the only one that can be cancelled. Raises Rejected."""
    can = {operation.id: operation for operation in cluster.running() if operation.kind in CANCELLABLE}
    if wanted is None and len(can) == 1:
        return next(iter(can.values()))
    if wanted is None:
        raise Rejected(
            "bad_request" if can else "not_found",
            f"several operations run ({', '.join(can)})" if can else "no operation runs that could be cancelled",
            "name one: cancel ID" if can else "see: operations",
        )
    if wanted in can:
        return can[wanted]
    operation = next((each for each in cluster.operations if each.id == wanted), None)
    if operation is None:
        raise Rejected("not_found", f"there is no operation {wanted!r}", "see: operations")
    why = "cannot be cancelled" if operation.running else f"has ended already: {operation.state}"
    raise Rejected("bad_request", f"operation {wanted} ({operation.command}) {why}", "see: operations")


def find_group(cluster: ClusterState, name: str | None) -> Group:
    """Return the group *name*; None: the only group. Raises Rejected."""
    if name is None and len(cluster.groups) == 1:
        return next(iter(cluster.groups.values()))
    if name not in cluster.groups:
        known = ", ".join(cluster.groups)
        what = f"there is no group {name!r}" if name else "there are several groups"
        raise Rejected("not_found" if name else "bad_request", what, f"name one of: {known}")
    return cluster.groups[name]


def parse_count(change: str, now: int) -> int:
    """``4``, ``+1``, ``-2`` → the new count. Raises Rejected."""
    digits = change.lstrip("+-")
    if not digits.isdecimal() or len(change) - len(digits) > 1 or len(digits) > 9:
        raise Rejected("bad_request", f"{change!r} is not a count", "write 4, +1 or -1")
    signs = {"+": now + int(digits), "-": now - int(digits)}
    count = signs.get(change[0], int(digits))
    if not 0 <= count <= MAX_WORKERS:
        raise Rejected("bad_request", f"{count} workers are not possible", f"ask for 0 to {MAX_WORKERS}")
    return count
