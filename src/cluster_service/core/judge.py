"""Operations begin, are watched, and end. No operation does work: the turn does, and this module looks on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import actions, events, ports
from .exit_causes import with_lines
from .operations import Operation, without_forgotten
from .stages import KINDS

if TYPE_CHECKING:
    from .group import Group
    from .slot import Slot
    from .step_context import StepContext
    from .worker import Worker


JUDGED_BY_OTHERS = KINDS | {"shutdown", "reload", "test", "exit"}
"""Operations that no failed start ends: stages, other operations, or a report decide how they end."""


def judge(cluster: StepContext, operation: Operation, now: float) -> None:
    """End *operation* when every slot that it is about is as wanted, or when one of them is broken."""
    found = [_slot_ended(cluster, operation, name, number) for name, number in operation.slots]
    operation.replaced = found.count("")
    failed = next((each for each in found if each), None)
    if failed:
        finish(cluster, operation, "failed", failed, now)
    elif operation.replaced == len(operation.slots):
        finish(cluster, operation, "done", None, now)


def _slot_ended(cluster: StepContext, operation: Operation, name: str, number: int) -> str | None:
    """Whether a slot is as *operation* wants it: empty; None: not yet; else why it will not be."""
    group = cluster.groups[name]
    slot = group.slots.get(number)
    workers = [each for each in cluster.workers.values() if (each.group, each.slot) == (name, number)]
    if slot is None:
        return None if workers else ""
    if (operation.kind == "shutdown" and cluster.ending) or group.leaving or is_replaced_by_another(group, slot):
        return None
    # Once a worker is buried, the cause of its end is known.
    if slot.broken and not any(worker.failed and not worker.buried for worker in workers):
        exit_ = slot.last_exit or {}
        why = exit_.get("detail", "it failed too often")
        return with_lines(f"{name}.{number} {why}", exit_.get("output", []))
    in_vain = waits_in_vain(cluster, group)
    if in_vain:
        return in_vain
    return "" if [(w.serving, w.generation) for w in workers] == [(True, slot.generation)] else None


def waits_in_vain(cluster: StepContext, group: Group) -> str:
    """Say that *group* waits for one that is broken; empty when it does not."""
    missing = ports.waits_for(cluster, group)
    broken = [each for each in missing if _is_broken(cluster.groups[each])]
    if not broken:
        return ""
    return f"{group.name} waits for {broken[0]}, which is broken; it is started as soon as that serves"


def is_replaced_by_another(group: Group, slot: Slot) -> bool:
    """Whether an upgrade is about to give *slot* another generation: how the present one fares means nothing then."""
    rollout = group.rollout
    if rollout is None or rollout.undoing or slot.generation == rollout.new:
        return False
    return rollout.whole or any(slot.number == number for number, _ in rollout.before)


def _is_broken(group: Group) -> bool:
    return any(slot.broken and not is_replaced_by_another(group, slot) for slot in group.slots.values())


def failed_boot(cluster: StepContext, worker: Worker, group: Group, detail: str, lines: list[str], now: float) -> None:
    """A worker never became ready. That is the verdict if it listens elsewhere than the one that it should replace;
    else if none of its generation ever has become ready, and none is trying.
    """
    others = any(each.booting and each.generation == worker.generation for each in cluster.of_group(group.name))
    if not worker.elsewhere and (worker.generation in group.proven or others):
        return
    slot = group.slots.get(worker.slot)
    if slot is None or slot.generation != worker.generation or is_replaced_by_another(group, slot):
        return
    for operation in cluster.running():
        if operation.kind not in JUDGED_BY_OTHERS and operation.concerns(worker.group, worker.slot):
            finish(cluster, operation, "failed", with_lines(f"{worker.name} {detail}", lines), now)


def killed(cluster: StepContext, worker: Worker, now: float) -> None:
    """*worker* had not ended in its time: every operation that it concerns says so."""
    for operation in cluster.running():
        if operation.concerns(worker.group, worker.slot):
            operation.killed += [worker.name] if worker.name not in operation.killed else []
            step(cluster, operation, f"{worker.name} (pid {worker.pid}) is killed: it did not end in time", now)


def finish(cluster: StepContext, operation: Operation, state: str, reason: str | None, now: float) -> None:
    """End *operation*; where a restart failed, want the old generation again that still serves."""
    if state == "done" and reason is None and operation.killed:
        reason = f"killed after the stop timeout: {', '.join(operation.killed)}"
    operation.state, operation.reason, operation.ended_at = state, reason, now
    if operation.kind in KINDS | {"test"} and state != "done":
        cluster.todo.append(actions.Abandon(operation.id))
    for name, number in operation.slots:
        group = cluster.groups[name]
        group.at_a_time = 0
        slot = group.slots.get(number)
        if slot is None:
            continue
        slot.timeout = None
        if state in ("failed", "cancelled") and operation.kind == "restart" and not cluster.ending:
            _turn_back(cluster, group, number)
    if state == "done":
        for name, generation in operation.generations.items():
            cluster.groups[name].promote(generation)
    for group in cluster.groups.values():
        named = {each.generations[group.name] for each in cluster.running() if group.name in each.generations}
        group.prune(named | {worker.generation for worker in cluster.of_group(group.name)})
    cluster.publish(
        events.OperationEnd(
            operation.id, operation.command, state, operation.reason, operation.replaced, len(operation.slots)
        )
    )


def _turn_back(cluster: StepContext, group: Group, number: int) -> None:
    """Where the old worker still serves and no new one does, want the old generation again."""
    slot = group.slots[number]
    serving = [worker for worker in cluster.of_group(group.name) if worker.slot == number and worker.serving]
    if serving and all(worker.generation != slot.generation for worker in serving):
        old = max(serving, key=lambda worker: worker.generation)
        slot.renew(old.generation, old.retire or "failure", None)  # it may have been due already


def step(cluster: StepContext, operation: Operation, text: str, now: float) -> None:
    """Note progress of *operation*."""
    operation.step(now, text)
    cluster.publish(events.OperationStep(operation.id, operation.command, text))


def begin(cluster: StepContext, kind: str, command: str, slots: list[list[Any]], now: float) -> Operation:
    """Begin an operation about *slots* and return it."""
    cluster.operation_count += 1
    operation = Operation(str(cluster.operation_count), command, kind, now, slots)
    cluster.operations = without_forgotten([*cluster.operations, operation])
    cluster.publish(events.OperationStart(operation.id, command))
    return operation


