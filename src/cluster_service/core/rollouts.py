"""Upgrades: what each stage waits for, and what comes then.

The stages (``stages.STAGES``) do no work. Each turn ``steer`` looks at what is seen and edits what is wanted, the
generation of slots above all; starting, stopping and replacing workers is the same arithmetic (``rollout``) as in
every other turn. Undoing is no other code either: the slots want the generation again that they had before.

*Bad* is, at any stage: a worker of the new release that ends, does not become ready in time, or hangs; significantly
more server errors than the old release gives in the same time (``health``); a port of the old release on which the
canary does not listen; a test that fails. An operator's ``cancel`` is the same event with another name for the end.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from . import actions, judge, masks, ports
from .exit_causes import seconds
from .liveness import is_fresh
from .slot import Slot
from .stages import LIVE

if TYPE_CHECKING:
    from collections.abc import Callable

    from . import reports
    from .group import Group
    from .operations import Operation
    from .stages import Rollout
    from .step_context import StepContext
    from .worker import Worker

LOOK_AGAIN = 0.5
"""Seconds until a worker that should be healthy by now, and has not shown a sign of life, is looked at again."""


def steer(cluster: StepContext, group: Group, now: float) -> None:
    """Edit what is wanted of *group* as its rollout's stage demands, and enter the next stage when it is time."""
    rollout = group.rollout
    if rollout is None:
        return
    operation = cluster.operation(rollout.operation)
    slots = scope(group, rollout)
    operation.slots = [[group.name, slot.number] for slot in slots]
    operation.replaced = sum(_is_replaced(cluster, group, rollout, slot) for slot in slots)
    if not slots and not rollout.undoing:
        blame(cluster, group, "nothing is left to be replaced: its slots are gone", now)
    refused = ports.refused(cluster, group) if rollout.stage in LIVE else ""
    if refused:
        blame(cluster, group, refused, now)
    in_vain = "" if rollout.undoing else judge.waits_in_vain(cluster, group)
    if in_vain:
        blame(cluster, group, in_vain, now)
    _STEER[rollout.stage](cluster, group, rollout, operation, now)


def scope(group: Group, rollout: Rollout) -> list[Slot]:
    """The slots that are meant, lowest first."""
    meant = {number for number, _ in rollout.before}
    return [slot for number, slot in sorted(group.slots.items()) if rollout.whole or number in meant]


def blame(cluster: StepContext, group: Group, why: str, now: float, *, culprit: Worker | None = None) -> bool:
    """The new release is bad: undo it. Returns whether there was anything to undo.

    *why*: empty when the last lines of *culprit* are to tell.
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
    before = {number: generation for number, generation in rollout.before}  # noqa: C416 - lists, after JSON
    for slot in scope(group, rollout):
        slot.hold = False
        if slot.generation == rollout.new:
            slot.renew(before.get(slot.number, group.promoted), "rollback", rollout.timeout)
    operation = cluster.operation(rollout.operation)
    what = f"{culprit.name} (pid {culprit.pid}) failed" if culprit else why.partition("\n")[0].rstrip(":")
    back = "back to the old release" if stage in LIVE else "no client has seen it"
    judge.step(cluster, operation, f"{stage}: {what}: {back}", now)
    return True


def blamed(cluster: StepContext, worker: Worker, now: float) -> bool:
    """*worker* has failed: where it is of a release that is on trial, that is the release's fault, not its slot's."""
    group = cluster.groups[worker.group]
    rollout = group.rollout
    if rollout is None or worker.generation != rollout.new:
        return False
    return blame(cluster, group, "", now, culprit=worker) or rollout.undoing


def buried(group: Group, worker: Worker, told: str) -> None:
    """*worker* is gone, and this is why: perhaps the reason that is still missing."""
    rollout = group.rollout
    if rollout is not None and rollout.culprit == worker.number:
        rollout.why, rollout.culprit = rollout.why or f"{worker.name} {told}", None


def cancel(cluster: StepContext, group: Group, now: float) -> None:
    """Undo what has been done so far, because an operator wants it."""
    assert group.rollout is not None  # noqa: S101 - the caller has looked
    group.rollout.cancelled = True
    blame(cluster, group, "cancelled by an operator", now)


def freeze(cluster: StepContext, group: Group) -> None:
    """Leave *group*, which is about to end, as it is: each slot wants what serves there."""
    if group.rollout is None:
        return
    group.rollout = None
    for slot in group.slots.values():
        slot.hold = False
        there = [each for each in cluster.of_group(group.name) if each.slot == slot.number]
        serving = {each.generation for each in there if each.serving}
        if serving and slot.generation not in serving:
            slot.renew(max(serving), "rollback", slot.timeout)


def forget_orders(group: Group) -> None:
    """The master that was ordered to check or test is gone, and its work with it."""
    if group.rollout is not None:
        group.rollout.ordered = False


# -- reports ----------------------------------------------------------------------------------------------------------


def checked(cluster: StepContext, report: reports.Checked, now: float) -> None:
    """The code was looked at."""
    found = _at(cluster, report.operation, "check")
    if found is None:
        return
    group, rollout = found
    rollout.ordered = False
    operation = cluster.operation(report.operation)
    for note in report.notes:
        judge.step(cluster, operation, note, now)
    if report.error:
        blame(cluster, group, report.error, now)
    elif rollout.test or rollout.health_check:
        rollout.move("can run, to be tested")
        rollout.dark = Slot(0, rollout.new, "upgrade", rollout.timeout)
    else:
        rollout.move("can run")


def tested(cluster: StepContext, report: reports.Tested, now: float) -> None:
    """A script has been run: against the dark canary of an upgrade, or because an operator asked for it."""
    for operation in cluster.running():
        if operation.kind == "test" and operation.id == report.operation:
            judge.finish(cluster, operation, "failed" if report.error else "done", report.error or None, now)
            return
    found = _at(cluster, report.operation, "dark")
    if found is None:
        return
    group, rollout = found
    rollout.ordered = False
    if report.error:
        blame(cluster, group, report.error, now)
        return
    judge.step(cluster, cluster.operation(report.operation), "dark: the test passed", now)
    rollout.move("passed")
    rollout.dark = None


def said(cluster: StepContext, report: reports.Said, now: float) -> None:
    """A script wrote something."""
    for operation in cluster.running():
        if operation.id == report.operation:
            for line in report.lines:
                judge.step(cluster, operation, line, now)


def _at(cluster: StepContext, operation: str, stage: str) -> tuple[Group, Rollout] | None:
    for group in cluster.groups.values():
        rollout = group.rollout
        if rollout is not None and rollout.operation == operation and rollout.stage == stage and rollout.ordered:
            return group, rollout
    return None


# -- the stages -------------------------------------------------------------------------------------------------------


def _check(cluster: StepContext, group: Group, rollout: Rollout, _operation: Operation, _now: float) -> None:
    if not rollout.ordered:
        rollout.ordered = True
        cluster.todo.append(actions.Check(rollout.operation, group.name, rollout.new))


def _dark(cluster: StepContext, group: Group, rollout: Rollout, operation: Operation, now: float) -> None:
    worker = next((each for each in cluster.of_group(group.name) if each.slot == 0 and each.serving), None)
    if worker is None or rollout.ordered:
        return
    rollout.ordered = True
    addresses = tuple(worker.addresses)
    what = ", ".join(masks.text(each) for each in (rollout.health_check, rollout.test) if each)
    where = f" on {addresses[0]}" if addresses else ""
    judge.step(cluster, operation, f"dark: {worker.name} (pid {worker.pid}) serves{where}, unseen; trying {what}", now)
    timeout = rollout.timeout or group.spec.ready_timeout
    cluster.todo.append(
        actions.RunTest(operation.id, group.name, rollout.new, addresses, rollout.test, rollout.health_check, timeout)
    )


def _canary(cluster: StepContext, group: Group, rollout: Rollout, operation: Operation, now: float) -> None:
    slots = scope(group, rollout)
    for slot in slots[1:]:
        if slot.generation == rollout.new:  # it was the first, and a lower one has been added
            slots = [slot]
    slot = slots[0]
    if slot.generation != rollout.new:
        slot.renew(rollout.new, operation.kind, rollout.timeout)
        slot.hold = True
        rollout.due = None
    worker = next(iter(_new(cluster, group, rollout)), None)
    if worker is None or not worker.serving:
        return
    if rollout.due is None:
        rollout.due = now + rollout.monitor
        beside = "in place of" if group.spec.singleton else "beside"
        text = f"canary: {worker.name} (pid {worker.pid}) serves {beside} the old release"
        judge.step(cluster, operation, _watched(text, "it", rollout), now)
    if not _is_due(cluster, group, rollout, [worker], now):
        return
    missing = ports.missing_ports(cluster, group, rollout, worker)
    if missing and not (rollout.allow_port_change or group.spec.allow_port_change):
        blame(cluster, group, f"{worker.name} does not listen on {missing}, where the old release does", now)
        return
    rollout.move("healthy")
    slot.hold = False
    of = len(scope(group, rollout))
    judge.step(cluster, operation, f"roll: the canary is healthy; replacing {of} worker{'s' * (of != 1)}", now)
    _roll(cluster, group, rollout, operation, now)


def _roll(cluster: StepContext, group: Group, rollout: Rollout, operation: Operation, now: float) -> None:
    slots = scope(group, rollout)
    _want_new(slots, rollout, operation)
    serving = {worker.slot for worker in _new(cluster, group, rollout) if worker.serving}
    if {slot.number for slot in slots} <= serving:
        rollout.move("all serve")
        rollout.due = now + rollout.monitor
        text, whom = ("bake: all serve", "them") if len(slots) > 1 else ("bake: it serves alone", "it")
        judge.step(cluster, operation, _watched(text, whom, rollout), now)


def _bake(cluster: StepContext, group: Group, rollout: Rollout, operation: Operation, now: float) -> None:
    slots = scope(group, rollout)
    _want_new(slots, rollout, operation)
    new = _new(cluster, group, rollout)
    if not _is_due(cluster, group, rollout, new, now):
        return
    if len(new) < len(slots) or not all(worker.serving for worker in new) or not _alone(cluster, slots, operation):
        rollout.due = now + LOOK_AGAIN
        return
    rollout.move("healthy")
    if rollout.whole:
        group.promote(rollout.new, back=operation.kind == "rollback")
        group.moved = rollout.new if rollout.allow_port_change else 0
        if rollout.configured:
            group.spec = replace(group.spec, release=group.release)
    _end(cluster, group, operation, "done", None, now)


def _undo(cluster: StepContext, group: Group, rollout: Rollout, operation: Operation, now: float) -> None:
    slots = scope(group, rollout)
    there = [worker for worker in cluster.workers.values() if worker.group == group.name]
    if any(worker.generation == rollout.new for worker in there):
        return
    state = "cancelled" if rollout.cancelled else "undone"
    broken = [slot for slot in slots if slot.broken]
    if broken:
        detail = (broken[0].last_exit or {}).get("detail", "fails")
        why = f"{rollout.why}\nand the old release is not back: {group.name}.{broken[0].number} {detail}"
        _end(cluster, group, operation, "failed", why, now)
        return
    serving = {(worker.slot, worker.generation) for worker in there if worker.serving}
    waits = ports.waits_for(cluster, group)  # then there were no workers before either
    if waits or {(slot.number, slot.generation) for slot in slots} <= serving:
        rollout.move("all back")
        _end(cluster, group, operation, state, rollout.why, now)


_STEER: dict[str, Callable[[StepContext, Group, Rollout, Operation, float], None]] = {
    "check": _check,
    "dark": _dark,
    "canary": _canary,
    "roll": _roll,
    "bake": _bake,
    "undo": _undo,
}


def _watched(text: str, whom: str, rollout: Rollout) -> str:
    return f"{text}; watching {whom} for {seconds(rollout.monitor)}" if rollout.monitor else text


def _want_new(slots: list[Slot], rollout: Rollout, operation: Operation) -> None:
    for slot in slots:
        if slot.generation != rollout.new:
            slot.renew(rollout.new, operation.kind, rollout.timeout)


def _new(cluster: StepContext, group: Group, rollout: Rollout) -> list[Worker]:
    """The workers of the new release that clients reach."""
    there = cluster.of_group(group.name)
    return [each for each in there if each.generation == rollout.new and each.staying and each.slot in group.slots]


def _is_due(cluster: StepContext, group: Group, rollout: Rollout, watched: list[Worker], now: float) -> bool:
    """Whether *watched* have been healthy for long enough. Judged by the clock alone: facts may be unread before."""
    if rollout.due is None or not cluster.judging_time or now < rollout.due:
        return False
    if all(is_fresh(group, worker) for worker in watched):
        return True
    rollout.due = now + LOOK_AGAIN
    return False


def _alone(cluster: StepContext, slots: list[Slot], operation: Operation) -> bool:
    """Whether no worker of another release is left in *slots*."""
    there = [each for each in cluster.workers.values() if operation.concerns(each.group, each.slot)]
    return len(there) == len(slots)


def _is_replaced(cluster: StepContext, group: Group, rollout: Rollout, slot: Slot) -> bool:
    staying = [each for each in cluster.of_group(group.name) if each.slot == slot.number and each.staying]
    return [(each.serving, each.generation) for each in staying] == [(True, rollout.new)]


def _end(cluster: StepContext, group: Group, operation: Operation, state: str, why: str | None, now: float) -> None:
    if group.rollout is not None and group.rollout.allow_port_change and state == "done":
        for slot in group.slots.values():
            slot.listened = any(each.slot == slot.number and each.addresses for each in cluster.of_group(group.name))
    group.rollout = None
    judge.finish(cluster, operation, state, why, now)
