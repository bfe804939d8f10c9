"""Which slots, group or operation a request selects, and why it is refused. Nothing here changes the state.

Selectors are ``all``, ``web``, ``web.2``, ``2``, ``4711`` or ``pid:4711``.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from cluster_service.core.model.cluster_state import MAX_RUNNING, Operation
from cluster_service.core.model.upgrade_state import UPGRADE_KINDS
from cluster_service.core.protocol.requests import Rejected

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from cluster_service.core.model.cluster_state import ClusterState
    from cluster_service.core.model.group import Group
    from cluster_service.core.model.worker import Worker


def select_slots(selector: str, groups: Mapping[str, Group], workers: Iterable[Worker]) -> list[tuple[str, int]]:
    """Return the ``(group, slot)`` pairs that *selector* selects, in order. Raises Rejected (not_found, bad_request).

    A number is a slot if one with that number exists, else a pid. In a container, pids are small too; ``pid:7`` is
    unambiguous.
    """
    if selector == "all":
        return [(name, number) for name, group in groups.items() for number in sorted(group.slots)]
    if selector in groups:
        return [(selector, number) for number in sorted(groups[selector].slots)]
    name, _, number = selector.rpartition(".")
    if name in groups and number.isdecimal():
        if int(number) not in groups[name].slots:
            raise Rejected("not_found", f"group {name!r} has no slot {number}", _list_slots(groups))
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
        return [_find_by_pid(int(pid), groups, workers)]
    near = difflib.get_close_matches(selector, ["all", *groups], 1)
    hint = f"did you mean {near[0]}?" if near else "write all, a group, a slot or a pid (see: workers)"
    raise Rejected("not_found", f"there is no group, slot or worker {selector!r}", hint)


def _find_by_pid(pid: int, groups: Mapping[str, Group], workers: Iterable[Worker]) -> tuple[str, int]:
    for worker in workers:
        if worker.pid == pid and worker.state != "gone":
            if not worker.staying or worker.slot not in groups[worker.group].slots:
                raise Rejected(
                    "not_found", f"the worker with pid {pid} ({worker.name}) is already stopping", "see: workers"
                )
            return worker.group, worker.slot
    raise Rejected("not_found", f"there is no worker with pid {pid}, and no slot {pid}", "see: workers")


def _list_slots(groups: Mapping[str, Group]) -> str:
    return "; ".join(f"{name}: {', '.join(map(str, sorted(group.slots)))}" for name, group in groups.items())

REPLACING_KINDS = UPGRADE_KINDS | {"start", "restart"}
"""Kinds of operations of which a group runs one at a time."""


def refuse_while_shutting_down(cluster: ClusterState) -> None:
    """Raise Rejected while the service is shutting down."""
    if cluster.ending:
        raise Rejected("stopping", "the service is shutting down", "start it again when it has ended")


def refuse_if_full(cluster: ClusterState) -> None:
    """Raise Rejected if no further operation may start."""
    refuse_while_shutting_down(cluster)
    if len(cluster.running_operations()) >= MAX_RUNNING:
        raise Rejected(
            "busy",
            f"{MAX_RUNNING} operations are running, which is the maximum",
            "wait until some have ended (see: operations)",
        )


def refuse_while_replacing(cluster: ClusterState, names: set[str]) -> None:
    """Raise Rejected while one of the groups *names* has its workers replaced, or is being stopped."""
    refuse_while_ending(cluster, names)
    operation = find_replacing_operation(cluster, names)
    if operation is not None:
        raise Rejected(
            "busy",
            f"operation {operation.id} ({operation.command}) is still running in this group",
            f"wait for it (operations {operation.id}) or end it (cancel {operation.id})",
        )


def refuse_while_ending(cluster: ClusterState, names: set[str]) -> None:
    """Raise Rejected while one of the groups *names* is being stopped."""
    for name in sorted(names & cluster.groups.keys()):
        if cluster.groups[name].leaving:
            raise Rejected("busy", f"group {name!r} is being shut down", "wait until it has ended (see: operations)")


def find_replacing_operation(cluster: ClusterState, names: set[str]) -> Operation | None:
    """Return the operation that replaces, or first starts, the workers of one of the groups *names*."""
    busy = (each for each in cluster.running_operations() if each.groups & names and each.kind in REPLACING_KINDS)
    return next(busy, None)

MAX_WORKERS = 1024
"""Most workers of one group."""

CANCELLABLE = UPGRADE_KINDS | {"restart", "test"}
"""Kinds of operations that can be cancelled: their changes can be undone."""


def refuse_unless_upgradable(cluster: ClusterState, group: Group, slots: list[int]) -> None:
    """Raise Rejected unless *slots* of *group* can be moved to another release now."""
    refuse_while_replacing(cluster, {group.name})
    if not slots:
        raise Rejected("bad_request", f"group {group.name!r} has no workers", f"scale it first: scale 1 {group.name}")


def find_selected_group(cluster: ClusterState, selector: str) -> Group:
    """Return the only group whose slots *selector* selects. Raises Rejected."""
    slots = select_slots(selector, cluster.groups, cluster.workers.values())
    return require_one_group(cluster, {name for name, _ in slots}, selector)


def require_one_group(cluster: ClusterState, names: set[str], selector: str) -> Group:
    """Return the only group of *names*, which *selector* selects. Raises Rejected if there are several."""
    if len(names) > 1:
        raise Rejected(
            "bad_request",
            f"{selector} selects several groups ({', '.join(sorted(names))}), but a release is for one group",
            "name the group",
        )
    return cluster.groups[next(iter(names))] if names else find_group(cluster, None)


def find_cancellable(cluster: ClusterState, wanted: str | None) -> Operation:
    """Return the operation with the id *wanted*; None: the only one that can be cancelled. Raises Rejected."""
    can = {operation.id: operation for operation in cluster.running_operations() if operation.kind in CANCELLABLE}
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
    """Return the count that ``4``, ``+1`` or ``-2`` means, *now* being the current one. Raises Rejected."""
    digits = change.lstrip("+-")
    if not digits.isdecimal() or len(change) - len(digits) > 1 or len(digits) > 9:
        raise Rejected("bad_request", f"{change!r} is not a count", "write 4, +1 or -1")
    signs = {"+": now + int(digits), "-": now - int(digits)}
    count = signs.get(change[0], int(digits))
    if not 0 <= count <= MAX_WORKERS:
        raise Rejected("bad_request", f"{count} workers are not allowed", f"ask for 0 to {MAX_WORKERS}")
    return count
