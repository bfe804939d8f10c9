"""Failures of workers: counted against their slots, reported, and charged to the release that is on trial."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

from cluster_service.wire.signals import signal_name

from . import actions, asked, events, judge, rollouts
from .exit_causes import SOON, background_verdict, cause, excerpt, with_lines
from .reconcile import stop
from .restarts import verdict
from .shutdown import HANG_STOP
from .slot import STEADY, History, Slot, Trial

if TYPE_CHECKING:
    from .group import Group
    from .step_context import StepContext
    from .worker import Worker

KEPT_LENGTH = 200
"""How much of them is kept for each slot: the notebook is written often."""


def fail(cluster: StepContext, worker: Worker, now: float) -> None:
    """Count the end of *worker*, or its not becoming ready, against its slot: once."""
    group = cluster.groups.get(worker.group)
    if worker.failed or group is None:
        return
    worker.failed = True
    if rollouts.blamed(cluster, worker, now):
        return
    for slot in count_failure(group, worker, now):
        detail = cause(worker, [], now)
        cluster.publish(events.SlotBroken(group.name, slot.number, len(slot.history.failures), detail))


def bury(cluster: StepContext, worker: Worker, lines: list[str], now: float) -> None:
    """Report the end of *worker*, now that its last lines are known; forget it once what it left has ended, too."""
    if worker.left and worker.may_be_background:
        return  # whether it has is seen at the end of what it left
    if not worker.buried:
        worker.buried = True
        _report_end(cluster, worker, lines, now)
    if not worker.left:
        del cluster.workers[worker.number]
        cluster.todo.append(actions.Forget(worker.number))


def _report_end(cluster: StepContext, worker: Worker, lines: list[str], now: float) -> None:
    group = cluster.groups.get(worker.group)
    died_at = now if worker.died_at is None else worker.died_at
    soon = died_at - worker.since < SOON
    if worker.background and worker.may_be_background and soon and group is not None:
        worker.verdict = background_verdict(worker.background, group.releases.get(worker.generation, group.release))
    detail = cause(worker, lines, died_at)
    if worker.failed and (port := asked.explain(cluster, worker, lines)):
        detail += f"; {port}"
    signal = None if worker.signal is None else signal_name(worker.signal)
    repeated = group.tell(detail) if worker.failed and group else 0
    cluster.publish(
        events.WorkerExit(
            worker.group,
            worker.slot,
            worker.pid or 0,
            worker.stop_reason or "failure",
            worker.code,
            signal,
            worker.ready_at is not None,
            detail,
            repeated,
        )
    )
    if not worker.failed or group is None:
        return
    rollouts.buried(group, worker, with_lines(detail, worker.stacks or lines))
    slot = group.slots.get(worker.slot)
    if slot is not None and slot.generation >= worker.generation:
        slot.last_exit = {
            "pid": worker.pid,
            "exit_code": worker.code,
            "signal": signal,
            "was_ready": worker.ready_at is not None,
            "detail": detail,
            "output": [line[:KEPT_LENGTH] for line in excerpt(lines)],
        }
    if worker.ready_at is None:
        judge.failed_boot(cluster, worker, group, detail, [] if worker.elsewhere else lines, now)


def count_failure(group: Group, worker: Worker, now: float) -> list[Slot]:
    """Count a failure of *worker*; return the slots that are broken by it."""
    slot = group.slots.get(worker.slot)
    if slot is None or slot.generation != worker.generation:
        return []
    if worker.ready_at is not None and now - worker.ready_at >= STEADY:
        slot.history = slot.history.steady()
    slot.history = slot.history.failed(now)
    slot.reason = worker.retire if worker.retire == "hang" else "failure"
    jitter = zlib.crc32(f"{worker.name}/{worker.number}".encode()) / 2**32
    judged = verdict(group.spec.restart, slot.history, now, jitter)
    slot.next_try = judged.at
    broken = [slot] if judged.broken else []
    if worker.generation not in group.proven and group.spec.restart.auto_restart:
        broken = _count_trial_failure(group, worker, now, jitter) or broken
    fresh = [each for each in broken if not each.broken]
    for each in broken:
        each.broken = True
        each.history = History(each.history.streak, each.history.failures, broken=True)
    return fresh


def _count_trial_failure(group: Group, worker: Worker, now: float, jitter: float) -> list[Slot]:
    """Count a failure of an unproven generation once a round, however many slots took part in the round."""
    if group.trial.generation != worker.generation:
        group.trial = Trial(worker.generation)
    elif worker.since <= group.trial.failed_at:
        return []
    history = group.trial.history.failed(now)
    judged = verdict(group.spec.restart, history, now, jitter)
    group.trial = Trial(
        worker.generation, History(history.streak, history.failures, judged.broken), judged.at, failed_at=now
    )
    if not judged.broken:
        return []
    return [slot for slot in group.slots.values() if slot.generation == worker.generation]


def hung(cluster: StepContext, worker: Worker, why: str, now: float) -> None:
    """*worker* does not do its work any more: have its stacks written, and another in its place."""
    group = cluster.groups[worker.group]
    if not worker.serving or worker.retire == "hang":
        return
    on_trial = group.rollout is not None and worker.generation == group.rollout.new
    worker.retire, worker.verdict = "hang", why
    cluster.todo.append(actions.Dump(worker.number, why))
    fail(cluster, worker, now)
    slot = group.slots.get(worker.slot)
    if on_trial:
        stop(cluster, worker, HANG_STOP, "hang", now)
    elif slot is not None and slot.history.streak == 1 and slot.next_try is not None and not slot.broken:
        slot.next_try = now  # nothing has crashed: its successor need not wait
