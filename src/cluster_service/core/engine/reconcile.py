"""Start and stop the workers of a group so that they match its slots, by the arithmetic of ``rules.replacement``."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING

from cluster_service.core.model.upgrade_state import UPGRADE_KINDS
from cluster_service.core.model.worker import Worker
from cluster_service.core.protocol import actions, event_records
from cluster_service.core.rules import port_checks
from cluster_service.core.rules.replacement import count_replacing, plan_singleton, plan_slot, surge
from cluster_service.core.rules.shutdown_order import HUNG_STOP_SECONDS, stop_timeout

if TYPE_CHECKING:
    from cluster_service.core.model.group import Group
    from cluster_service.core.model.worker import Slot

    from .step_context import StepContext


MAX_STOP_EXTENSION = 10
"""Stop timeouts after which a stopping worker is killed, however often it extends its deadline."""


def reconcile_group(cluster: StepContext, group: Group, now: float) -> None:
    """Start and stop workers of *group* so that they match its slots."""
    workers = cluster.workers_of(group.name)
    slots = {slot.number: slot for slot in group.desired_slots()}
    for worker in workers:
        if worker.slot not in slots:
            stop_worker(cluster, worker, stop_timeout(cluster, worker), _reason_dropped(group, worker), now)
    by_slot: defaultdict[int, list[Worker]] = defaultdict(list)
    for worker in workers:
        by_slot[worker.slot].append(worker)
    wanting: list[tuple[bool, int, int, str]] = []
    for slot in slots.values():
        of_slot = by_slot[slot.number]
        if group.spec.singleton:
            plan = plan_singleton(slot.generation, workers)
        else:
            plan = plan_slot(slot.generation, of_slot, hold=slot.hold)
        for worker in plan.stop:
            reason = _reason_replaced(group, worker, slot)
            stop_worker(cluster, worker, stop_timeout(cluster, worker), reason, now)
        if plan.wants != "nothing":
            patient = not any(worker.retire == "hang" for worker in of_slot)
            wanting.append((patient, slot.history.streak, slot.number, plan.wants))
    starts = _StartBudget(cluster, group) if wanting else None
    for *_, number, wants in sorted(wanting):
        if starts is not None and starts.may(slots[number], wants, now):
            _start_worker(cluster, group, slots[number], now)
            starts.note(slots[number])
    for worker in workers:
        if worker.retire == "hang" and not _has_successor(cluster, worker):
            # Waiting for a successor would not help: a hung worker serves no requests.
            stop_worker(cluster, worker, HUNG_STOP_SECONDS, "hang", now)


class _StartBudget:
    """Number of booting and replaced workers of a group, counted once for all starts of a step."""

    def __init__(self, cluster: StepContext, group: Group) -> None:
        workers = cluster.workers_of(group.name)
        self._group = group
        self._waits = bool(port_checks.missing_dependencies(cluster, group))
        self._booting = Counter(worker.generation for worker in workers if worker.booting)
        self._staying = Counter(worker.slot for worker in workers if worker.staying)
        self._replacing = count_replacing(group.slots.keys(), workers)
        left = [worker for worker in cluster.workers.values() if worker.left and worker.group == group.name]
        self._others = bool(left) and group.spec.singleton
        """True if processes that a singleton's last worker left may still do its work."""
        self._occupied = {worker.slot for worker in left if worker.may_be_background}

    def may(self, slot: Slot, wants: str, now: float) -> bool:
        """Return whether a worker may be started in *slot* now."""
        group = self._group
        at = group.next_try(slot)
        if at is None or at > now or self._waits or self._others or slot.number in self._occupied:
            return False
        if group.trying(slot.generation) and self._booting[slot.generation]:
            return False
        if group.at_a_time and self._booting.total() >= group.at_a_time:
            return False
        return wants == "start" or self._replacing < surge(len(group.slots))

    def note(self, slot: Slot) -> None:
        """Count a worker that was started in *slot*."""
        self._booting[slot.generation] += 1
        self._staying[slot.number] += 1
        self._replacing += slot.number in self._group.slots and self._staying[slot.number] == 2


def _has_successor(cluster: StepContext, worker: Worker) -> bool:
    there = cluster.workers_of(worker.group)
    return any(each.slot == worker.slot and each.number > worker.number and each.staying for each in there)


def _start_worker(cluster: StepContext, group: Group, slot: Slot, now: float) -> None:
    number = slot.number
    cluster.last_worker += 1
    worker = Worker(cluster.last_worker, group.name, number, slot.generation, slot.reason, now)
    worker.ready_timeout = slot.timeout or group.spec.ready_timeout
    slot.restarts += slot.reason in ("failure", "hang")
    cluster.workers[worker.number] = worker
    what = (worker.number, group.name, number, slot.generation, slot.reason)
    cluster.todo.append(actions.Start(*what, private=number == 0))


def stop_worker(cluster: StepContext, worker: Worker, timeout: float, reason: str, now: float) -> None:
    """Ask *worker* to exit within *timeout* seconds, unless it has been asked already."""
    if not worker.can("stop"):
        return
    worker.move("stop")
    worker.stop_reason, worker.deadline = reason, now + timeout
    worker.stop_by = now + MAX_STOP_EXTENSION * timeout
    cluster.todo.append(actions.Stop(worker.number, timeout, reason))
    cluster.publish(event_records.WorkerStop(worker.group, worker.slot, worker.pid or 0, reason, timeout))


def _reason_dropped(group: Group, worker: Worker) -> str:
    """Return the stop reason of a worker whose slot was removed. Slot 0 belongs to the preview worker."""
    return group.leave_reason if worker.slot else worker.reason


def _reason_replaced(group: Group, worker: Worker, slot: Slot) -> str:
    """Return the stop reason of a worker that its slot no longer needs."""
    if worker.retire:
        return worker.retire
    if group.rollout is not None and group.rollout.undoing:
        return "rollback"
    if slot.reason in UPGRADE_KINDS:
        return slot.reason
    return "restart" if worker.generation < slot.generation else "rollback"
