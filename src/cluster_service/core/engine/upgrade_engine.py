"""Upgrades and rollbacks: what happens in each stage, and when the next one starts.

The stages (``upgrade_state.STAGES``) do no work themselves. In each step, ``advance_upgrade`` compares the observed
state with the stage and edits the desired generation of the slots. ``rules.replacement`` starts and stops the workers,
as for any other reason. An undo is the same with the previous generations.

A release is *bad* if one of its workers exits, does not become ready in time, or hangs; if it returns significantly
more server errors than the old release in the same time (``rules.error_rates``); if the canary does not listen on a
port of the old release; or if a test fails. A ``cancel`` is handled in the same way, with another final state.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from cluster_service.core.model.upgrade_state import LIVE_STAGES
from cluster_service.core.model.worker import Slot
from cluster_service.core.protocol import actions
from cluster_service.core.rules import port_checks, redaction
from cluster_service.core.rules.exit_causes import format_duration
from cluster_service.core.rules.liveness import is_responsive

from .operation_tracking import add_step, describe_broken_dependency, finish_operation

if TYPE_CHECKING:
    from collections.abc import Callable

    from cluster_service.core.model.cluster_state import Operation
    from cluster_service.core.model.group import Group
    from cluster_service.core.model.upgrade_state import Rollout
    from cluster_service.core.model.worker import Worker
    from cluster_service.core.protocol import reports

    from .step_context import StepContext

RECHECK_SECONDS = 0.5
"""Seconds until workers are checked again if the monitor time is over and one shows no progress."""


def advance_upgrade(cluster: StepContext, group: Group, now: float) -> None:
    """Edit the desired state of *group* for the stage of its upgrade, and enter the next stage when it is due."""
    rollout = group.rollout
    if rollout is None:
        return
    operation = cluster.operation(rollout.operation)
    slots = target_slots(group, rollout)
    operation.slots = [[group.name, slot.number] for slot in slots]
    operation.replaced = sum(_is_replaced(cluster, group, rollout, slot) for slot in slots)
    if not slots and not rollout.undoing:
        begin_undo(cluster, group, "nothing left to replace: the slots were removed", now)
    refused = port_checks.find_refusing_port(cluster, group) if rollout.stage in LIVE_STAGES else ""
    if refused:
        begin_undo(cluster, group, refused, now)
    in_vain = "" if rollout.undoing else describe_broken_dependency(cluster, group)
    if in_vain:
        begin_undo(cluster, group, in_vain, now)
    _STAGE_HANDLERS[rollout.stage](cluster, group, rollout, operation, now)


def target_slots(group: Group, rollout: Rollout) -> list[Slot]:
    """Return the slots to upgrade, in ascending order."""
    meant = {number for number, _ in rollout.before}
    return [slot for number, slot in sorted(group.slots.items()) if rollout.whole or number in meant]


def begin_undo(cluster: StepContext, group: Group, why: str, now: float, *, culprit: Worker | None = None) -> bool:
    """Start to undo the upgrade, because its release is bad. Return whether there was an upgrade to undo.

    *why*: empty if the last lines of *culprit* will tell.
    """
    rollout = group.rollout
    if rollout is None or rollout.undoing:
        return False
    stage = rollout.stage
    if rollout.ordered:
        cluster.todo.append(actions.Abandon(rollout.operation))
    rollout.move("bad")
    rollout.why, rollout.culprit = why, culprit.number if culprit else None
    rollout.dark = None
    before = {number: generation for number, generation in rollout.before}  # noqa: C416 - pairs are lists after JSON
    for slot in target_slots(group, rollout):
        slot.hold = False
        if slot.generation == rollout.new:
            slot.renew(before.get(slot.number, group.promoted), "rollback", rollout.timeout)
    operation = cluster.operation(rollout.operation)
    what = f"{culprit.name} (pid {culprit.pid}) failed" if culprit else why.partition("\n")[0].rstrip(":")
    back = "back to the old release" if stage in LIVE_STAGES else "no client reached it"
    add_step(cluster, operation, f"{stage}: {what}: {back}", now)
    return True


def undo_if_on_trial(cluster: StepContext, worker: Worker, now: float) -> bool:
    """Undo the upgrade if *worker*, which failed, runs its release. Return whether the failure is the release's."""
    group = cluster.groups[worker.group]
    rollout = group.rollout
    if rollout is None or worker.generation != rollout.new:
        return False
    return begin_undo(cluster, group, "", now, culprit=worker) or rollout.undoing


def record_culprit_exit(group: Group, worker: Worker, told: str) -> None:
    """Complete the reason of an undo if *worker*, whose exit is explained by *told*, caused it."""
    rollout = group.rollout
    if rollout is not None and rollout.culprit == worker.number:
        rollout.why, rollout.culprit = rollout.why or f"{worker.name} {told}", None


def cancel_upgrade(cluster: StepContext, group: Group, now: float) -> None:
    """Undo the upgrade because of a ``cancel``."""
    assert group.rollout is not None  # the caller has looked
    group.rollout.cancelled = True
    begin_undo(cluster, group, "cancelled by an operator", now)


def freeze_group(cluster: StepContext, group: Group) -> None:
    """Stop the upgrade of *group*, which is about to end: each slot keeps the generation that serves there."""
    if group.rollout is None:
        return
    group.rollout = None
    for slot in group.slots.values():
        slot.hold = False
        there = [each for each in cluster.workers_of(group.name) if each.slot == slot.number]
        serving = {each.generation for each in there if each.serving}
        if serving and slot.generation not in serving:
            slot.renew(max(serving), "rollback", slot.timeout)


def reset_ordered_jobs(group: Group) -> None:
    """Have checks and tests ordered again: the master that ran them is gone."""
    if group.rollout is not None:
        group.rollout.ordered = False


# -- reports ----------------------------------------------------------------------------------------------------------


def handle_checked(cluster: StepContext, report: reports.Checked, now: float) -> None:
    """Handle the result of the code check."""
    found = _find_waiting_rollout(cluster, report.operation, "check")
    if found is None:
        return
    group, rollout = found
    rollout.ordered = False
    operation = cluster.operation(report.operation)
    for note in report.notes:
        add_step(cluster, operation, note, now)
    if report.error:
        begin_undo(cluster, group, report.error, now)
    elif rollout.test or rollout.health_check:
        rollout.move("can run, to be tested")
        rollout.dark = Slot(0, rollout.new, "upgrade", rollout.timeout)
    else:
        rollout.move("can run")


def handle_tested(cluster: StepContext, report: reports.Tested, now: float) -> None:
    """Handle the result of a test: of an upgrade's preview worker, or of a ``test`` command."""
    for operation in cluster.running_operations():
        if operation.kind == "test" and operation.id == report.operation:
            finish_operation(cluster, operation, "failed" if report.error else "done", report.error or None, now)
            return
    found = _find_waiting_rollout(cluster, report.operation, "dark")
    if found is None:
        return
    group, rollout = found
    rollout.ordered = False
    if report.error:
        begin_undo(cluster, group, report.error, now)
        return
    add_step(cluster, cluster.operation(report.operation), "dark: the test passed", now)
    rollout.move("passed")
    rollout.dark = None


def handle_test_output(cluster: StepContext, report: reports.Said, now: float) -> None:
    """Add the output lines of a test to its operation."""
    for operation in cluster.running_operations():
        if operation.id == report.operation:
            for line in report.lines:
                add_step(cluster, operation, line, now)


def _find_waiting_rollout(cluster: StepContext, operation: str, stage: str) -> tuple[Group, Rollout] | None:
    for group in cluster.groups.values():
        rollout = group.rollout
        if rollout is not None and rollout.operation == operation and rollout.stage == stage and rollout.ordered:
            return group, rollout
    return None


# -- the stages -------------------------------------------------------------------------------------------------------


def _check_stage(cluster: StepContext, group: Group, rollout: Rollout, _operation: Operation, _now: float) -> None:
    if not rollout.ordered:
        rollout.ordered = True
        cluster.todo.append(actions.Check(rollout.operation, group.name, rollout.new))


def _preview_stage(cluster: StepContext, group: Group, rollout: Rollout, operation: Operation, now: float) -> None:
    worker = next((each for each in cluster.workers_of(group.name) if each.slot == 0 and each.serving), None)
    if worker is None or rollout.ordered:
        return
    rollout.ordered = True
    addresses = tuple(worker.addresses)
    what = ", ".join(redaction.redact_text(each) for each in (rollout.health_check, rollout.test) if each)
    where = f" on {addresses[0]}" if addresses else ""
    text = f"dark: {worker.name} (pid {worker.pid}) serves{where}, no client reaches it; testing {what}"
    add_step(cluster, operation, text, now)
    timeout = rollout.timeout or group.spec.ready_timeout
    cluster.todo.append(
        actions.RunTest(operation.id, group.name, rollout.new, addresses, rollout.test, rollout.health_check, timeout)
    )


def _canary_stage(cluster: StepContext, group: Group, rollout: Rollout, operation: Operation, now: float) -> None:
    slots = target_slots(group, rollout)
    for slot in slots[1:]:
        if slot.generation == rollout.new:  # the canary; a slot with a lower number was added since
            slots = [slot]
    slot = slots[0]
    if slot.generation != rollout.new:
        slot.renew(rollout.new, operation.kind, rollout.timeout)
        slot.hold = True
        rollout.due = None
    worker = next(iter(_new_workers(cluster, group, rollout)), None)
    if worker is None or not worker.serving:
        return
    if rollout.due is None:
        rollout.due = now + rollout.monitor
        beside = "in place of" if group.spec.singleton else "beside"
        text = f"canary: {worker.name} (pid {worker.pid}) serves {beside} the old release"
        add_step(cluster, operation, _append_monitor_time(text, "it", rollout), now)
    if not _is_monitor_time_over(cluster, group, rollout, [worker], now):
        return
    missing = port_checks.list_missing_ports(cluster, group, rollout, worker)
    if missing and not (rollout.allow_port_change or group.spec.allow_port_change):
        begin_undo(cluster, group, f"{worker.name} does not listen on {missing}, where the old release does", now)
        return
    rollout.move("healthy")
    slot.hold = False
    of = len(target_slots(group, rollout))
    add_step(cluster, operation, f"roll: the canary is healthy; replacing {of} worker{'s' * (of != 1)}", now)
    _roll_stage(cluster, group, rollout, operation, now)


def _roll_stage(cluster: StepContext, group: Group, rollout: Rollout, operation: Operation, now: float) -> None:
    slots = target_slots(group, rollout)
    _select_new_release(slots, rollout, operation)
    serving = {worker.slot for worker in _new_workers(cluster, group, rollout) if worker.serving}
    if {slot.number for slot in slots} <= serving:
        rollout.move("all serve")
        rollout.due = now + rollout.monitor
        text, whom = ("bake: all serve", "them") if len(slots) > 1 else ("bake: it serves", "it")
        add_step(cluster, operation, _append_monitor_time(text, whom, rollout), now)


def _bake_stage(cluster: StepContext, group: Group, rollout: Rollout, operation: Operation, now: float) -> None:
    slots = target_slots(group, rollout)
    _select_new_release(slots, rollout, operation)
    new = _new_workers(cluster, group, rollout)
    if not _is_monitor_time_over(cluster, group, rollout, new, now):
        return
    if (
        len(new) < len(slots)
        or not all(worker.serving for worker in new)
        or not _is_old_release_gone(cluster, slots, operation)
    ):
        rollout.due = now + RECHECK_SECONDS
        return
    rollout.move("healthy")
    if rollout.whole:
        group.promote(rollout.new, back=operation.kind == "rollback")
        group.moved = rollout.new if rollout.allow_port_change else 0
        if rollout.configured:
            group.spec = replace(group.spec, release=group.release)
    _finish_upgrade(cluster, group, operation, "done", None, now)


def _undo_stage(cluster: StepContext, group: Group, rollout: Rollout, operation: Operation, now: float) -> None:
    slots = target_slots(group, rollout)
    there = [worker for worker in cluster.workers.values() if worker.group == group.name]
    if any(worker.generation == rollout.new for worker in there):
        return
    state = "cancelled" if rollout.cancelled else "undone"
    broken = [slot for slot in slots if slot.broken]
    if broken:
        detail = (broken[0].last_exit or {}).get("detail", "fails")
        why = f"{rollout.why}\nand the old release does not serve: {group.name}.{broken[0].number} {detail}"
        _finish_upgrade(cluster, group, operation, "failed", why, now)
        return
    serving = {(worker.slot, worker.generation) for worker in there if worker.serving}
    waits = port_checks.missing_dependencies(cluster, group)  # then it had no workers before the upgrade either
    if waits or {(slot.number, slot.generation) for slot in slots} <= serving:
        rollout.move("all back")
        _finish_upgrade(cluster, group, operation, state, rollout.why, now)


_STAGE_HANDLERS: dict[str, Callable[[StepContext, Group, Rollout, Operation, float], None]] = {
    "check": _check_stage,
    "dark": _preview_stage,
    "canary": _canary_stage,
    "roll": _roll_stage,
    "bake": _bake_stage,
    "undo": _undo_stage,
}


def _append_monitor_time(text: str, whom: str, rollout: Rollout) -> str:
    return f"{text}; watching {whom} for {format_duration(rollout.monitor)}" if rollout.monitor else text


def _select_new_release(slots: list[Slot], rollout: Rollout, operation: Operation) -> None:
    for slot in slots:
        if slot.generation != rollout.new:
            slot.renew(rollout.new, operation.kind, rollout.timeout)


def _new_workers(cluster: StepContext, group: Group, rollout: Rollout) -> list[Worker]:
    """Return the workers of the new release that clients reach."""
    there = cluster.workers_of(group.name)
    return [each for each in there if each.generation == rollout.new and each.staying and each.slot in group.slots]


def _is_monitor_time_over(
    cluster: StepContext, group: Group, rollout: Rollout, watched: list[Worker], now: float
) -> bool:
    """Return whether *watched* were healthy for the monitor time. Only true in a Tick: else facts may be unread."""
    if rollout.due is None or not cluster.may_time_out or now < rollout.due:
        return False
    if all(is_responsive(group, worker) for worker in watched):
        return True
    rollout.due = now + RECHECK_SECONDS
    return False


def _is_old_release_gone(cluster: StepContext, slots: list[Slot], operation: Operation) -> bool:
    """Return whether no worker of another release is left in *slots*."""
    there = [each for each in cluster.workers.values() if operation.concerns(each.group, each.slot)]
    return len(there) == len(slots)


def _is_replaced(cluster: StepContext, group: Group, rollout: Rollout, slot: Slot) -> bool:
    staying = [each for each in cluster.workers_of(group.name) if each.slot == slot.number and each.staying]
    return [(each.serving, each.generation) for each in staying] == [(True, rollout.new)]


def _finish_upgrade(
    cluster: StepContext, group: Group, operation: Operation, state: str, why: str | None, now: float
) -> None:
    if group.rollout is not None and group.rollout.allow_port_change and state == "done":
        for slot in group.slots.values():
            slot.listened = any(each.slot == slot.number and each.addresses for each in cluster.workers_of(group.name))
    group.rollout = None
    finish_operation(cluster, operation, state, why, now)
