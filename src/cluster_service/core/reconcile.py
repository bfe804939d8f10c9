"""Ordering the difference: which workers of a group are started and asked to end, by the arithmetic of ``rollout``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import actions, events, ports
from .rollout import plan_alone, plan_slot, replacing, surge
from .stages import KINDS
from .worker import Worker

if TYPE_CHECKING:
    from .cluster import Cluster
    from .group import Group, Slot

BOOT_STOP = 10.0
"""Seconds that a worker which was never ready has to end."""

HANG_STOP = 5.0
"""Seconds that a worker which hangs has to end: it will hardly hear that it is asked to."""


def reconcile(cluster: Cluster, group: Group, now: float) -> None:
    """Order the difference between the slots of *group* and its workers."""
    workers = cluster.of_group(group.name)
    slots = {slot.number: slot for slot in group.wanted_slots()}
    for worker in workers:
        if worker.slot not in slots:
            stop(cluster, worker, stop_timeout(cluster, worker), _why_dropped(group, worker), now)
    wanting: list[tuple[bool, int, int, str]] = []
    for slot in slots.values():
        of_slot = [worker for worker in workers if worker.slot == slot.number]
        if group.spec.singleton:
            plan = plan_alone(slot.generation, workers)
        else:
            plan = plan_slot(slot.generation, of_slot, hold=slot.hold)
        for worker in plan.stop:
            reason = _why_replaced(group, worker, slot)
            stop(cluster, worker, stop_timeout(cluster, worker), reason, now)
        if plan.wants != "nothing":
            patient = not any(worker.retire == "hang" for worker in of_slot)
            wanting.append((patient, slot.history.streak, slot.number, plan.wants))
    for *_, number, wants in sorted(wanting):
        if _may_start(cluster, group, slots[number], wants, now):
            _start(cluster, group, slots[number], now)
    for worker in workers:
        if worker.retire == "hang" and not _has_successor(cluster, worker):
            stop(cluster, worker, HANG_STOP, "hang", now)  # there is nothing to wait for


def _may_start(cluster: Cluster, group: Group, slot: Slot, wants: str, now: float) -> bool:
    at = group.next_try(slot)
    workers = cluster.of_group(group.name)
    booting = [worker for worker in workers if worker.booting]
    if at is None or at > now or ports.waits_for(cluster, group):
        return False
    if group.trying(slot.generation) and any(worker.generation == slot.generation for worker in booting):
        return False
    if group.at_a_time and len(booting) >= group.at_a_time:
        return False
    return wants == "start" or replacing(group.slots.keys(), workers) < surge(len(group.slots))


def _has_successor(cluster: Cluster, worker: Worker) -> bool:
    there = cluster.of_group(worker.group)
    return any(each.slot == worker.slot and each.number > worker.number and each.staying for each in there)


def _start(cluster: Cluster, group: Group, slot: Slot, now: float) -> None:
    number = slot.number
    cluster.last_worker += 1
    worker = Worker(cluster.last_worker, group.name, number, slot.generation, slot.reason, now)
    worker.ready_timeout = slot.timeout or group.spec.ready_timeout
    slot.restarts += slot.reason in ("failure", "hang")
    cluster.workers[worker.number] = worker
    what = (worker.number, group.name, number, slot.generation, slot.reason)
    cluster.todo.append(actions.Start(*what, private=number == 0))


def stop(cluster: Cluster, worker: Worker, timeout: float, reason: str, now: float) -> None:
    """Ask *worker* to end within *timeout* seconds, unless it has been asked already."""
    if not worker.can("stop"):
        return
    worker.move("stop")
    worker.stop_reason, worker.deadline = reason, now + timeout
    cluster.todo.append(actions.Stop(worker.number, timeout, reason))
    cluster.publish(events.WorkerStop(worker.group, worker.slot, worker.pid or 0, reason, timeout))


def stop_timeout(cluster: Cluster, worker: Worker) -> float:
    """Seconds that *worker* has to end when it is asked to."""
    group = cluster.groups.get(worker.group)
    if worker.retire == "hang":
        return HANG_STOP
    if worker.stop_timeout is not None:
        return worker.stop_timeout
    slot = group.slots.get(worker.slot) if group else None
    if slot is not None and slot.timeout is not None:
        return slot.timeout
    return group.spec.stop_timeout if group else BOOT_STOP


def _why_dropped(group: Group, worker: Worker) -> str:
    """The reason that a worker whose slot is not there any more is told; slot 0 is a dark canary's."""
    return group.leave_reason if worker.slot else worker.reason


def _why_replaced(group: Group, worker: Worker, slot: Slot) -> str:
    """The reason that a worker which its slot does not want any more is told."""
    if worker.retire:
        return worker.retire
    if group.rollout is not None and group.rollout.undoing:
        return "rollback"
    if slot.reason in KINDS:
        return slot.reason
    return "restart" if worker.generation < slot.generation else "rollback"
