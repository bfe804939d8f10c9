"""Requests: what is wanted. Each checks, then edits slots and generations and starts an operation that watches.

A request that is refused raises Rejected before it has changed anything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import actions, judge, rollouts
from .group import Group
from .requests import Rejected
from .selectors import select
from .stages import KINDS, Rollout
from .worker import seconds

if TYPE_CHECKING:
    from .cluster import Cluster
    from .operations import Operation
    from .requests import Cancel, ExitNow, Restart, Rollback, Scale, Shutdown, StartGroup, Test, Upgrade
    from .spec import Release

MOST = 1024
"""Workers in one group."""

CANCELLED = KINDS | {"restart", "test"}
"""Operations that can be: what they have changed can be changed back."""


def restart(cluster: Cluster, request: Restart, now: float) -> None:
    """Want a new generation in the slots that are meant."""
    refuse_when_ending(cluster)
    slots = select(request.selector, cluster.groups, cluster.workers.values())
    names = {name for name, _ in slots}
    judge.refuse_while_rolling(cluster, names)
    operation = judge.begin(cluster, "restart", f"restart {request.selector}", [[n, s] for n, s in slots], now)
    for name in sorted(names):
        group = cluster.groups[name]
        newer: dict[Release, int] = {}
        for slot in [group.slots[number] for each, number in slots if each == name]:
            release = group.releases[slot.generation]
            newer[release] = newer.get(release) or group.next_generation(release)
            slot.renew(newer[release], "restart", request.timeout)
        if group.release in newer:
            operation.generations[name] = newer[group.release]


def upgrade(cluster: Cluster, request: Upgrade, now: float) -> None:
    """Want another release in the slots that are meant, by and by."""
    refuse_when_ending(cluster)
    group = group_of(cluster, request.selector)
    slots = select(request.selector, cluster.groups, cluster.workers.values())
    tested = request.test or request.health_check
    if tested and group.spec.singleton:
        raise Rejected(
            "bad_request",
            f"{group.name!r} has never two workers at a time, so there can be none that is only tried",
            "leave out the test",
        )
    if tested and request.release.share == "none":
        raise Rejected(
            "bad_request",
            f"the workers of {group.name!r} open their ports themselves (share none): a test could not be kept apart",
            "leave out the test, or share the ports",
        )
    roll(cluster, group, [number for _, number in slots], request.release, "upgrade", request.selector, now)
    rollout = group.rollout
    assert rollout is not None  # noqa: S101 - begun above
    rollout.monitor, rollout.timeout = request.monitor, request.timeout
    rollout.test, rollout.health_check = request.test, request.health_check
    rollout.allow_port_change = request.allow_port_change


def rollback(cluster: Cluster, request: Rollback, now: float) -> None:
    """Want the release again that was promoted before this one."""
    refuse_when_ending(cluster)
    if request.selector != "all" and request.selector not in cluster.groups:
        known = ", ".join(["all", *cluster.groups])
        raise Rejected("not_found", f"there is no group {request.selector!r}", f"name one of: {known}")
    names = set(cluster.groups) if request.selector == "all" else {request.selector}
    group = _one_group(cluster, {name for name in names if cluster.groups[name].past} or names, request.selector)
    judge.refuse_while_rolling(cluster, {group.name})
    if not group.past:
        raise Rejected(
            "not_found", f"there is no earlier release of group {group.name!r}", "upgrade TARGET moves to any other"
        )
    roll(cluster, group, list(group.slots), group.past[-1], "rollback", request.selector, now)
    assert group.rollout is not None  # noqa: S101 - begun above
    group.rollout.monitor, group.rollout.timeout = request.monitor, request.timeout


def roll(
    cluster: Cluster, group: Group, slots: list[int], release: Release, kind: str, selector: str, now: float
) -> None:
    """Begin to move *slots* of *group* to *release*. Raises Rejected."""
    judge.refuse_while_rolling(cluster, {group.name})
    if not slots:
        raise Rejected("bad_request", f"group {group.name!r} has no workers", f"scale it first: scale 1 {group.name}")
    command = f"{kind} {selector} {release.target}"
    operation = judge.begin(cluster, kind, command, [[group.name, number] for number in slots], now)
    judge.step(cluster, operation, f"check: {release.target} in {release.cwd}", now)
    before = [[number, group.slots[number].generation] for number in slots]
    new = group.next_generation(release)
    group.rollout = Rollout(operation.id, new, before, len(slots) == len(group.slots), monitor=0.0)


def group_of(cluster: Cluster, selector: str) -> Group:
    """The one group that *selector* is about, all of it or some slots. Raises Rejected."""
    slots = select(selector, cluster.groups, cluster.workers.values())
    return _one_group(cluster, {name for name, _ in slots}, selector)


def _one_group(cluster: Cluster, names: set[str], selector: str) -> Group:
    if len(names) > 1:
        raise Rejected(
            "bad_request",
            f"{selector} means several groups ({', '.join(sorted(names))}), and one release is for one of them",
            "name the group",
        )
    return cluster.groups[next(iter(names))] if names else _group(cluster, None)


def cancel(cluster: Cluster, request: Cancel, now: float) -> None:
    """Want back what an operation has changed so far; ``last_operation`` is that operation then."""
    refuse_when_ending(cluster)
    operation = _to_cancel(cluster, request.operation)
    cluster.subject = operation.id
    if operation.kind in KINDS:
        for group in cluster.groups.values():
            if group.rollout is not None and group.rollout.operation == operation.id:
                rollouts.cancel(cluster, group, now)
        return
    judge.finish(cluster, operation, "cancelled", "cancelled by an operator", now)


def _to_cancel(cluster: Cluster, wanted: str | None) -> Operation:
    can = {operation.id: operation for operation in cluster.running() if operation.kind in CANCELLED}
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


def test(cluster: Cluster, request: Test, now: float) -> None:
    """Have a script run against the code base; nothing is wanted of the workers."""
    refuse_when_ending(cluster)
    group = _group(cluster, request.group) if request.group else next(iter(cluster.groups.values()))
    operation = judge.begin(cluster, "test", f"test {request.script}", [], now)
    serving = [worker for worker in cluster.of_group(group.name) if worker.serving and worker.slot in group.slots]
    addresses = tuple(dict.fromkeys(address for worker in serving for address in worker.addresses))
    cluster.todo.append(
        actions.RunTest(operation.id, group.name, group.promoted, addresses, request.script, None, request.timeout)
    )


def scale(cluster: Cluster, request: Scale, now: float) -> None:
    """Want another number of slots."""
    refuse_when_ending(cluster)
    group = _group(cluster, request.group)
    count = _count(request.change, len(group.slots))
    if count > 1 and group.spec.singleton:
        raise Rejected("bad_request", f"{group.name!r} is a singleton: it never has two workers", "ask for 0 or 1")
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
    refuse_when_ending(cluster)
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
    refuse_when_ending(cluster)
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
    for name, group in cluster.groups.items():
        group.rollout = None
        _set_stop_timeout(cluster, name, None, timeout)
    operation = judge.begin(cluster, "shutdown", "shutdown all", slots, now)
    delay = cluster.spec.shutdown_delay
    if not delay:
        cluster.end_service("shutdown", 0)
        return
    cluster.ending, cluster.drain_at = "shutdown", now + delay
    judge.step(cluster, operation, f"not ready any more; serving goes on for {seconds(delay)}, for those who look", now)


def refuse_when_ending(cluster: Cluster) -> None:
    """Raise Rejected while the service is on its way to its end."""
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
