"""Ordering the difference: which workers of a group are started and asked to end, by the arithmetic of ``rollout``."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING

from . import actions, events, ports
from .rollout import plan_alone, plan_slot, replacing, surge
from .shutdown import HANG_STOP, stop_timeout
from .stages import KINDS
from .worker import Worker

if TYPE_CHECKING:
    from .group import Group
    from .slot import Slot
    from .step_context import StepContext


STOP_EXTENSION = 10
"""Stop timeouts after which a worker that was asked to end is killed, however often it asks for more time."""


def reconcile(cluster: StepContext, group: Group, now: float) -> None:
    """Order the difference between the slots of *group* and its workers."""
    workers = cluster.of_group(group.name)
    slots = {slot.number: slot for slot in group.wanted_slots()}
    for worker in workers:
        if worker.slot not in slots:
            stop(cluster, worker, stop_timeout(cluster, worker), _why_dropped(group, worker), now)
    by_slot: defaultdict[int, list[Worker]] = defaultdict(list)
    for worker in workers:
        by_slot[worker.slot].append(worker)
    wanting: list[tuple[bool, int, int, str]] = []
    for slot in slots.values():
        of_slot = by_slot[slot.number]
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
    starts = _Starts(cluster, group) if wanting else None
    for *_, number, wants in sorted(wanting):
        if starts is not None and starts.may(slots[number], wants, now):
            _start(cluster, group, slots[number], now)
            starts.note(slots[number])
    for worker in workers:
        if worker.retire == "hang" and not _has_successor(cluster, worker):
            stop(cluster, worker, HANG_STOP, "hang", now)  # there is nothing to wait for


class _Starts:
    """How many workers of a group are booting and in replacement, counted once and not for each that is started."""

    def __init__(self, cluster: StepContext, group: Group) -> None:
        workers = cluster.of_group(group.name)
        self._group = group
        self._waits = bool(ports.waits_for(cluster, group))
        self._booting = Counter(worker.generation for worker in workers if worker.booting)
        self._staying = Counter(worker.slot for worker in workers if worker.staying)
        self._replacing = replacing(group.slots.keys(), workers)
        left = [worker for worker in cluster.workers.values() if worker.left and worker.group == group.name]
        self._others = bool(left) and group.spec.singleton
        """What the last worker left may be a second one at work, and there must never be two."""
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
        """A worker was started in *slot*."""
        self._booting[slot.generation] += 1
        self._staying[slot.number] += 1
        self._replacing += slot.number in self._group.slots and self._staying[slot.number] == 2


def _has_successor(cluster: StepContext, worker: Worker) -> bool:
    there = cluster.of_group(worker.group)
    return any(each.slot == worker.slot and each.number > worker.number and each.staying for each in there)


def _start(cluster: StepContext, group: Group, slot: Slot, now: float) -> None:
    number = slot.number
    cluster.last_worker += 1
    worker = Worker(cluster.last_worker, group.name, number, slot.generation, slot.reason, now)
    worker.ready_timeout = slot.timeout or group.spec.ready_timeout
    slot.restarts += slot.reason in ("failure", "hang")
    cluster.workers[worker.number] = worker
    what = (worker.number, group.name, number, slot.generation, slot.reason)
    cluster.todo.append(actions.Start(*what, private=number == 0))


def stop(cluster: StepContext, worker: Worker, timeout: float, reason: str, now: float) -> None:
    """Ask *worker* to end within *timeout* seconds, unless it has been asked already."""
    if not worker.can("stop"):
        return
    worker.move("stop")
    worker.stop_reason, worker.deadline = reason, now + timeout
    worker.stop_by = now + STOP_EXTENSION * timeout
    cluster.todo.append(actions.Stop(worker.number, timeout, reason))
    cluster.publish(events.WorkerStop(worker.group, worker.slot, worker.pid or 0, reason, timeout))


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
