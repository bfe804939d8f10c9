"""Start, progress and end of operations. An operation does no work: the steps do, and this module observes them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cluster_service.core.model.cluster_state import Operation, drop_old_operations
from cluster_service.core.model.upgrade_state import UPGRADE_KINDS
from cluster_service.core.protocol import actions, event_records
from cluster_service.core.rules import port_checks
from cluster_service.core.rules.exit_causes import append_lines

if TYPE_CHECKING:
    from cluster_service.core.model.group import Group
    from cluster_service.core.model.worker import Slot, Worker

    from .step_context import StepContext


ENDED_ELSEWHERE = UPGRADE_KINDS | {"shutdown", "reload", "test", "exit"}
"""Kinds of operations that a failed start does not end: upgrade stages, child operations or reports end them."""


def track_operation(cluster: StepContext, operation: Operation, now: float) -> None:
    """End *operation* if each of its slots is as desired, or if one of them keeps failing."""
    found = [_slot_outcome(cluster, operation, name, number) for name, number in operation.slots]
    operation.replaced = found.count("")
    failed = next((each for each in found if each), None)
    if failed:
        finish_operation(cluster, operation, "failed", failed, now)
    elif operation.replaced == len(operation.slots):
        finish_operation(cluster, operation, "done", None, now)


def _slot_outcome(cluster: StepContext, operation: Operation, name: str, number: int) -> str | None:
    """Return "" if a slot is as *operation* desires, None if not yet, else why it will not be."""
    group = cluster.groups[name]
    slot = group.slots.get(number)
    workers = [each for each in cluster.workers.values() if (each.group, each.slot) == (name, number)]
    if slot is None:
        return None if workers else ""
    if (operation.kind == "shutdown" and cluster.ending) or group.leaving or is_upgrade_pending(group, slot):
        return None
    # The cause of an exit is known once it has been reported.
    if slot.broken and not any(worker.failed and not worker.buried for worker in workers):
        exit_ = slot.last_exit or {}
        why = exit_.get("detail", "it failed too often")
        return append_lines(f"{name}.{number} {why}", exit_.get("output", []))
    in_vain = describe_broken_dependency(cluster, group)
    if in_vain:
        return in_vain
    return "" if [(w.serving, w.generation) for w in workers] == [(True, slot.generation)] else None


def describe_broken_dependency(cluster: StepContext, group: Group) -> str:
    """Return which group that keeps failing *group* waits for, as a sentence; empty: none."""
    missing = port_checks.missing_dependencies(cluster, group)
    broken = [each for each in missing if _is_broken(cluster.groups[each])]
    if not broken:
        return ""
    return f"{group.name} waits for {broken[0]}, which keeps failing; it starts when {broken[0]} serves"


def is_upgrade_pending(group: Group, slot: Slot) -> bool:
    """Return whether an upgrade will change the generation of *slot*; its failures do not count then."""
    rollout = group.rollout
    if rollout is None or rollout.undoing or slot.generation == rollout.new:
        return False
    return rollout.whole or any(slot.number == number for number, _ in rollout.before)


def _is_broken(group: Group) -> bool:
    return any(slot.broken and not is_upgrade_pending(group, slot) for slot in group.slots.values())


def fail_operations_of(
    cluster: StepContext, worker: Worker, group: Group, detail: str, lines: list[str], now: float
) -> None:
    """Fail the operations of *worker*, which never became ready.

    They fail if it listens on other ports than the worker that it should replace, or if no worker of its generation
    has ever become ready and no other one is booting.
    """
    others = any(each.booting and each.generation == worker.generation for each in cluster.workers_of(group.name))
    if not worker.elsewhere and (worker.generation in group.proven or others):
        return
    slot = group.slots.get(worker.slot)
    if slot is None or slot.generation != worker.generation or is_upgrade_pending(group, slot):
        return
    for operation in cluster.running_operations():
        if operation.kind not in ENDED_ELSEWHERE and operation.concerns(worker.group, worker.slot):
            finish_operation(cluster, operation, "failed", append_lines(f"{worker.name} {detail}", lines), now)


def record_kill(cluster: StepContext, worker: Worker, now: float) -> None:
    """Record in the operations of *worker* that it was killed, because it did not exit in time."""
    for operation in cluster.running_operations():
        if operation.concerns(worker.group, worker.slot):
            operation.killed += [worker.name] if worker.name not in operation.killed else []
            add_step(cluster, operation, f"{worker.name} (pid {worker.pid}) was killed: it did not exit in time", now)


def finish_operation(cluster: StepContext, operation: Operation, state: str, reason: str | None, now: float) -> None:
    """End *operation*. Slots of a failed restart return to the old generation if it still serves."""
    if state == "done" and reason is None and operation.killed:
        reason = f"killed after the stop timeout: {', '.join(operation.killed)}"
    operation.state, operation.reason, operation.ended_at = state, reason, now
    if operation.kind in UPGRADE_KINDS | {"test"} and state != "done":
        cluster.todo.append(actions.Abandon(operation.id))
    for name, number in operation.slots:
        group = cluster.groups[name]
        group.at_a_time = 0
        slot = group.slots.get(number)
        if slot is None:
            continue
        slot.timeout = None
        if state in ("failed", "cancelled") and operation.kind == "restart" and not cluster.ending:
            _restore_old_generation(cluster, group, number)
    if state == "done":
        for name, generation in operation.generations.items():
            cluster.groups[name].promote(generation)
    for group in cluster.groups.values():
        running = cluster.running_operations()
        named = {each.generations[group.name] for each in running if group.name in each.generations}
        group.prune(named | {worker.generation for worker in cluster.workers_of(group.name)})
    cluster.publish(
        event_records.OperationEnd(
            operation.id, operation.command, state, operation.reason, operation.replaced, len(operation.slots)
        )
    )


def _restore_old_generation(cluster: StepContext, group: Group, number: int) -> None:
    """Return a slot to its old generation if the old worker still serves and no new one does."""
    slot = group.slots[number]
    serving = [worker for worker in cluster.workers_of(group.name) if worker.slot == number and worker.serving]
    if serving and all(worker.generation != slot.generation for worker in serving):
        old = max(serving, key=lambda worker: worker.generation)
        slot.renew(old.generation, old.retire or "failure", None)  # it may have been marked for replacement before


def add_step(cluster: StepContext, operation: Operation, text: str, now: float) -> None:
    """Add a step to *operation* and publish it."""
    operation.step(now, text)
    cluster.publish(event_records.OperationStep(operation.id, operation.command, text))


def begin_operation(cluster: StepContext, kind: str, command: str, slots: list[list[Any]], now: float) -> Operation:
    """Start an operation that changes *slots*, and return it."""
    cluster.operation_count += 1
    operation = Operation(str(cluster.operation_count), command, kind, now, slots)
    cluster.operations = drop_old_operations([*cluster.operations, operation])
    cluster.publish(event_records.OperationStart(operation.id, command))
    return operation


