"""Handlers of requests. Each is a *plan*, which validates the whole request, and an *apply*, which carries it out.

A plan changes nothing and may raise Rejected. It returns the apply: a function of the time that cannot fail and returns
the operation of the request. So a refused request leaves no trace.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from cluster_service.core.model.cluster_state import Operation
from cluster_service.core.model.group import Group
from cluster_service.core.model.upgrade_state import UPGRADE_KINDS, Rollout
from cluster_service.core.protocol import actions
from cluster_service.core.protocol.requests import Rejected
from cluster_service.core.rules import selectors, shutdown_order
from cluster_service.core.rules.exit_causes import format_duration

from . import operation_tracking, upgrade_engine

if TYPE_CHECKING:
    from cluster_service.core.model.spec import GroupSpec, Release
    from cluster_service.core.protocol.requests import (
        Cancel,
        ExitNow,
        Restart,
        Rollback,
        Scale,
        Shutdown,
        StartGroup,
        Test,
        Upgrade,
    )

    from .step_context import StepContext

Apply = Callable[[float], Operation]
"""Second phase of a request: carries it out at the given time (monotonic seconds) and does not raise."""

Place = tuple[str, int]
"""A group's name and a slot's number."""


# -- plans ------------------------------------------------------------------------------------------------------------


def plan_restart(cluster: StepContext, request: Restart) -> Apply:
    """Plan a new generation of the same release for the selected slots."""
    selectors.refuse_if_full(cluster)
    slots = selectors.select_slots(request.selector, cluster.groups, cluster.workers.values())
    selectors.refuse_while_replacing(cluster, {name for name, _ in slots})
    return lambda now: _apply_restart(cluster, request, slots, now)


def plan_upgrade(cluster: StepContext, request: Upgrade) -> Apply:
    """Plan to move the selected slots of one group to another release, in stages."""
    selectors.refuse_if_full(cluster)
    group = selectors.find_selected_group(cluster, request.selector)
    slots = [number for _, number in selectors.select_slots(request.selector, cluster.groups, cluster.workers.values())]
    tested = request.test or request.health_check
    if tested and group.spec.singleton:
        raise Rejected(
            "bad_request",
            f"{group.name!r} is a singleton, so there can be no second worker to test",
            "leave out the test",
        )
    if tested and request.release.share == "none":
        raise Rejected(
            "bad_request",
            f"the workers of {group.name!r} open their own ports (share none), so a test worker could not be isolated",
            "leave out the test, or share the ports",
        )
    selectors.refuse_unless_upgradable(cluster, group, slots)

    def apply(now: float) -> Operation:
        operation, rollout = begin_upgrade(cluster, group, slots, request.release, "upgrade", request.selector, now)
        rollout.monitor, rollout.timeout = request.monitor, request.timeout
        rollout.test, rollout.health_check = request.test, request.health_check
        rollout.allow_port_change = request.allow_port_change
        return operation

    return apply


def plan_rollback(cluster: StepContext, request: Rollback) -> Apply:
    """Plan to return to the release that was promoted before the current one."""
    selectors.refuse_if_full(cluster)
    if request.selector != "all" and request.selector not in cluster.groups:
        known = ", ".join(["all", *cluster.groups])
        raise Rejected("not_found", f"there is no group {request.selector!r}", f"name one of: {known}")
    names = set(cluster.groups) if request.selector == "all" else {request.selector}
    past = {name for name in names if cluster.groups[name].past}
    group = selectors.require_one_group(cluster, past or names, request.selector)
    selectors.refuse_while_replacing(cluster, {group.name})
    if not group.past:
        raise Rejected(
            "not_found", f"there is no earlier release of group {group.name!r}", "upgrade TARGET moves to any other"
        )
    selectors.refuse_unless_upgradable(cluster, group, list(group.slots))

    def apply(now: float) -> Operation:
        to = group.past[-1]
        operation, rollout = begin_upgrade(cluster, group, list(group.slots), to, "rollback", request.selector, now)
        rollout.monitor, rollout.timeout = request.monitor, request.timeout
        rollout.allow_port_change = group.moved == group.promoted
        return operation

    return apply


def plan_cancel(cluster: StepContext, request: Cancel) -> Apply:
    """Plan to undo the changes of a running operation, which is also the operation that is returned."""
    selectors.refuse_while_shutting_down(cluster)
    operation = selectors.find_cancellable(cluster, request.operation)

    def apply(now: float) -> Operation:
        if operation.kind not in UPGRADE_KINDS:
            operation_tracking.finish_operation(cluster, operation, "cancelled", "cancelled by an operator", now)
            return operation
        for group in cluster.groups.values():
            if group.rollout is not None and group.rollout.operation == operation.id:
                upgrade_engine.cancel_upgrade(cluster, group, now)
        return operation

    return apply


def plan_test(cluster: StepContext, request: Test) -> Apply:
    """Plan to run a script against the current release. The workers do not change."""
    selectors.refuse_if_full(cluster)
    group = selectors.find_group(cluster, request.group) if request.group else next(iter(cluster.groups.values()))

    def apply(now: float) -> Operation:
        operation = operation_tracking.begin_operation(cluster, "test", f"test {request.script}", [], now)
        serving = [worker for worker in cluster.workers_of(group.name) if worker.serving and worker.slot in group.slots]
        addresses = tuple(dict.fromkeys(address for worker in serving for address in worker.addresses))
        cluster.todo.append(
            actions.RunTest(operation.id, group.name, group.promoted, addresses, request.script, None, request.timeout)
        )
        return operation

    return apply


def plan_scale(cluster: StepContext, request: Scale) -> Apply:
    """Plan another number of slots."""
    selectors.refuse_if_full(cluster)
    group = selectors.find_group(cluster, request.group)
    selectors.refuse_while_ending(cluster, {group.name})
    count = selectors.parse_count(request.change, len(group.slots))
    if count > 1 and group.spec.singleton:
        raise Rejected("bad_request", f"{group.name!r} is a singleton: it never has two workers", "ask for 0 or 1")
    return lambda now: resize_group(cluster, group, count, request.change, request.timeout, now)


def plan_shutdown(cluster: StepContext, request: Shutdown) -> Apply:
    """Plan to remove the selected slots, or to end the service."""
    selectors.refuse_while_shutting_down(cluster)
    if request.selector == "all":
        return lambda now: begin_shutdown(cluster, request.timeout, now)
    selectors.refuse_if_full(cluster)
    slots = selectors.select_slots(request.selector, cluster.groups, cluster.workers.values())
    selectors.refuse_while_ending(cluster, {name for name, _ in slots})

    def apply(now: float) -> Operation:
        for name, number in slots:
            cluster.groups[name].leave_reason = "shutdown"
            del cluster.groups[name].slots[number]
            _set_stop_timeout(cluster, name, [number], request.timeout)
        return operation_tracking.begin_operation(
            cluster, "shutdown", f"shutdown {request.selector}", [[n, s] for n, s in slots], now
        )

    return apply


def plan_start_group(cluster: StepContext, request: StartGroup) -> Apply:
    """Plan to add a group."""
    selectors.refuse_if_full(cluster)
    name = request.group.name
    if name in cluster.groups and (cluster.groups[name].slots or cluster.workers_of(name)):
        raise Rejected("bad_request", f"there is a group {name!r} already", "give another name with --group")
    return lambda now: add_group(cluster, request.group, now)


def plan_exit(cluster: StepContext, _request: ExitNow) -> Apply:
    """Plan to end the service at once. This is possible during a shutdown too."""

    def apply(now: float) -> Operation:
        cluster.ending, cluster.ended = "exit", True
        for operation in cluster.running_operations():
            operation_tracking.finish_operation(cluster, operation, "cancelled", "exit now ended the service", now)
        slots = [[name, number] for name, group in cluster.groups.items() for number in group.slots]
        exiting = operation_tracking.begin_operation(cluster, "exit", "exit now", slots, now)
        exiting.replaced = len(slots)
        operation_tracking.finish_operation(cluster, exiting, "done", None, now)
        cluster.todo.append(actions.End(0, now=True))
        return exiting

    return apply


# -- changes of the desired state; the caller has validated them ------------------------------------------------------


def _apply_restart(cluster: StepContext, request: Restart, slots: list[Place], now: float) -> Operation:
    operation = operation_tracking.begin_operation(
        cluster, "restart", f"restart {request.selector}", [[n, s] for n, s in slots], now
    )
    for name in sorted({name for name, _ in slots}):
        group = cluster.groups[name]
        newer: dict[Release, int] = {}
        for slot in [group.slots[number] for each, number in slots if each == name]:
            release = group.releases[slot.generation]
            newer[release] = newer.get(release) or group.next_generation(release)
            slot.renew(newer[release], "restart", request.timeout)
        if group.release in newer:
            operation.generations[name] = newer[group.release]
    return operation


def begin_upgrade(
    cluster: StepContext, group: Group, slots: list[int], release: Release, kind: str, selector: str, now: float
) -> tuple[Operation, Rollout]:
    """Start to move *slots* of *group*, at least one, to *release*."""
    command = f"{kind} {selector} {release.target}"
    operation = operation_tracking.begin_operation(
        cluster, kind, command, [[group.name, number] for number in slots], now
    )
    operation_tracking.add_step(cluster, operation, f"check: {release.target} in {release.cwd}", now)
    before = [[number, group.slots[number].generation] for number in slots]
    new = group.next_generation(release)
    rollout = Rollout(operation.id, new, before, len(slots) == len(group.slots), monitor=0.0)
    group.rollout = rollout
    return operation, rollout


def resize_group(
    cluster: StepContext, group: Group, count: int, change: str, timeout: float | None, now: float
) -> Operation:
    """Change *group* to *count* slots. *change*: as the user wrote it."""
    before = set(group.slots)
    group.resize(count)
    changed = sorted(before ^ set(group.slots))
    for number in changed:
        if number in group.slots:
            group.slots[number].timeout = timeout
    _set_stop_timeout(cluster, group.name, [number for number in changed if number in before], timeout)
    slots = [[group.name, number] for number in changed]
    return operation_tracking.begin_operation(cluster, "scale", f"scale {change} {group.name}", slots, now)


def add_group(cluster: StepContext, spec: GroupSpec, now: float) -> Operation:
    """Add the group of *spec*; its workers start one at a time."""
    cluster.groups[spec.name] = Group.new(spec, at_a_time=1)
    slots = [[spec.name, number] for number in cluster.groups[spec.name].slots]
    return operation_tracking.begin_operation(cluster, "start", f"start {spec.release.target}", slots, now)


def end_group(cluster: StepContext, group: Group, now: float) -> Operation:
    """Stop *group*, after all stopping groups that depend on it."""
    slots = [[group.name, number] for number in group.slots]
    group.leave_reason, group.leaving = "shutdown", True
    return operation_tracking.begin_operation(cluster, "shutdown", f"shutdown {group.name}", slots, now)


def begin_shutdown(cluster: StepContext, timeout: float | None, now: float) -> Operation:
    """End the service gracefully; cancel what is running."""
    for operation in cluster.running_operations():
        operation_tracking.finish_operation(cluster, operation, "cancelled", "the service is shutting down", now)
    slots = [[name, number] for name, group in cluster.groups.items() for number in group.slots]
    for name, group in cluster.groups.items():
        upgrade_engine.freeze_group(cluster, group)
        _set_stop_timeout(cluster, name, None, timeout)
        for slot in group.slots.values():
            slot.timeout = timeout if timeout is not None else slot.timeout
    operation = operation_tracking.begin_operation(cluster, "shutdown", "shutdown all", slots, now)
    delay = cluster.spec.shutdown_delay
    if delay:
        text = f"readiness now fails; serving for another {format_duration(delay)} before draining"
        operation_tracking.add_step(cluster, operation, text, now)
    plan = shutdown_order.describe_order(cluster)
    if plan:
        operation_tracking.add_step(cluster, operation, plan, now)
    if delay:
        cluster.ending, cluster.drain_at = "shutdown", now + delay
    else:
        end_service(cluster, "shutdown", 0)
    return operation




def _set_stop_timeout(cluster: StepContext, group: str, slots: list[int] | None, timeout: float | None) -> None:
    for worker in cluster.workers_of(group):
        if timeout is not None and (slots is None or worker.slot in slots):
            worker.stop_timeout = timeout


def end_service(cluster: StepContext, reason: str, code: int) -> None:
    """Stop all groups, in the order of ``shutdown_order``; then the service ends with exit code *code*."""
    cluster.ending, cluster.end_code, cluster.drain_at = reason, code, None
    for group in cluster.groups.values():
        group.leave_reason, group.leaving = "shutdown", True
    drop_slots_of_ending_groups(cluster)


def drop_slots_of_ending_groups(cluster: StepContext) -> None:
    """Remove the slots of stopping groups on which no other stopping group depends.

    Groups of a dependency cycle stop together.
    """
    ending = {name: group for name, group in cluster.groups.items() if group.leaving}
    leaving = {name: group for name, group in ending.items() if shutdown_order.is_alive(cluster, group)}
    gone = [""]
    while leaving and gone:
        free = [group for group in leaving.values() if not shutdown_order.list_dependents(group.name, leaving.values())]
        for group in free or leaving.values():
            group.rollout = None
            group.slots.clear()
        gone = [name for name, group in leaving.items() if not shutdown_order.is_alive(cluster, group)]
        leaving = {name: group for name, group in leaving.items() if name not in gone}
    for group in cluster.groups.values():
        group.leaving = group.leaving and (bool(cluster.ending) or shutdown_order.is_alive(cluster, group))
