"""Operations begin, are watched, and end. No operation does work: the turn does, and this module looks on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import actions, events
from .operations import KEPT, Operation
from .requests import Rejected
from .stages import KINDS

if TYPE_CHECKING:
    from .cluster import Cluster
    from .group import Group
    from .worker import Worker


ROLLING = KINDS | {"start", "restart"}
"""Operations of which a group has one at a time."""


def judge(cluster: Cluster, operation: Operation, now: float) -> None:
    """End *operation* when every slot that it is about is as wanted, or when one of them is broken."""
    finished = 0
    for name, number in operation.slots:
        group = cluster.groups[name]
        slot = group.slots.get(number)
        workers = [each for each in cluster.workers.values() if (each.group, each.slot) == (name, number)]
        if slot is None:
            finished += not workers
            continue
        if operation.kind == "shutdown" and cluster.drain_at is not None:
            continue
        if slot.broken and not any(worker.failed for worker in workers):  # once it is buried its cause is known
            exit_ = slot.last_exit or {}
            why = exit_.get("detail", "it failed too often")
            finish(cluster, operation, "failed", with_lines(f"{name}.{number} {why}", exit_.get("output", [])), now)
            return
        broken = [
            each for each in group.waits_for(cluster.groups, cluster.workers.values()) if _is_broken(cluster, each)
        ]
        if broken:
            why = f"{name} waits for {broken[0]}, which is broken; it is started as soon as that serves"
            finish(cluster, operation, "failed", why, now)
            return
        finished += [(w.serving, w.generation) for w in workers] == [(True, slot.generation)]
    operation.replaced = finished
    if finished == len(operation.slots):
        finish(cluster, operation, "done", None, now)


def _is_broken(cluster: Cluster, name: str) -> bool:
    return any(slot.broken for slot in cluster.groups[name].slots.values())


def failed_boot(cluster: Cluster, worker: Worker, group: Group, detail: str, lines: list[str], now: float) -> None:
    """A worker never became ready. If none of its generation ever has, and none is trying, that is the verdict."""
    others = any(each.booting and each.generation == worker.generation for each in cluster.of_group(group.name))
    if worker.generation in group.proven or others:
        return
    for operation in cluster.running():
        slot = group.slots.get(worker.slot)
        if operation.kind in KINDS | {"shutdown"} or not operation.concerns(worker.group, worker.slot) or slot is None:
            continue
        if slot.generation == worker.generation:
            finish(cluster, operation, "failed", with_lines(f"{worker.name} {detail}", lines), now)


def finish(cluster: Cluster, operation: Operation, state: str, reason: str | None, now: float) -> None:
    """End *operation*; where a restart failed, want the old generation again that still serves."""
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
    cluster.publish(events.OperationEnd(operation.id, operation.command, state, reason))


def _turn_back(cluster: Cluster, group: Group, number: int) -> None:
    """Where the old worker still serves and no new one does, want the old generation again."""
    slot = group.slots[number]
    serving = [worker for worker in cluster.of_group(group.name) if worker.slot == number and worker.serving]
    if serving and all(worker.generation != slot.generation for worker in serving):
        old = max(serving, key=lambda worker: worker.generation)
        slot.renew(old.generation, old.retire or "failure", None)  # it may have been due already


def step(cluster: Cluster, operation: Operation, text: str, now: float) -> None:
    """Note progress of *operation*."""
    operation.step(now, text)
    cluster.publish(events.OperationStep(operation.id, operation.command, text))


def refuse_while_rolling(cluster: Cluster, names: set[str]) -> None:
    """Raise Rejected when ``rolling`` of them."""
    operation = rolling(cluster, names)
    if operation is not None:
        raise Rejected(
            "busy",
            f"operation {operation.id} ({operation.command}) is still running in this group",
            f"wait for it (operations {operation.id}) or end it (cancel {operation.id})",
        )


def rolling(cluster: Cluster, names: set[str]) -> Operation | None:
    """The operation by which workers of one of the groups *names* are being replaced, or started for the first time."""
    busy = (each for each in cluster.running() if each.groups & names and each.kind in ROLLING)
    return next(busy, None)


def begin(cluster: Cluster, kind: str, command: str, slots: list[list[Any]], now: float) -> Operation:
    """Begin an operation about *slots*; it is the last of ``cluster.operations``."""
    cluster.operation_count += 1
    operation = Operation(str(cluster.operation_count), command, kind, now, slots)
    cluster.operations.append(operation)
    cluster.subject = operation.id
    del cluster.operations[:-KEPT]
    cluster.publish(events.OperationStart(operation.id, command))
    return operation


def with_lines(text: str, lines: list[str]) -> str:
    """Return *text* and, indented below it, *lines*; a single one that *text* ends with is not said again."""
    if len(lines) == 1 and text.endswith(lines[0].strip()):
        return text
    return "\n".join([text, *(f"    {line}" for line in lines)])
