"""Failures of workers: exits, hangs, failed checks and high error rates.

A failure is counted against the slot, or against the release that is being upgraded to, and reported.

Heartbeats and counts arrive as samples of the workers' boards. The time without progress is counted in samples, not in
clock time: there are no samples while this process or the machine is suspended, so no worker is blamed for that time,
and at least two samples are needed. Only a worker that serves is checked, and only after any extension that it asked
for has passed.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

from cluster_service.core.model.upgrade_state import LIVE_STAGES
from cluster_service.core.model.worker import STEADY_SECONDS, History, Slot, Trial
from cluster_service.core.protocol import actions, event_records
from cluster_service.core.rules.error_rates import ResponseCounts, is_worse
from cluster_service.core.rules.exit_causes import (
    BACKGROUND_SECONDS,
    append_lines,
    describe_background,
    describe_exit,
    excerpt,
)
from cluster_service.core.rules.liveness import FRESH_SECONDS, hang_limit
from cluster_service.core.rules.replacement import next_attempt
from cluster_service.core.rules.shutdown_order import HUNG_STOP_SECONDS
from cluster_service.wire.signals import signal_name

from . import operation_tracking, probed_ports, recycle, upgrade_engine
from .reconcile import stop_worker

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cluster_service.core.model.group import Group
    from cluster_service.core.model.upgrade_state import Rollout
    from cluster_service.core.model.worker import Worker
    from cluster_service.core.protocol.reports import Dumped, Examined, Pulse, Sample

    from .step_context import StepContext

MAX_LINE_LENGTH = 200
"""Most characters that are kept of an output line of a slot's last exit: the checkpoint is written often."""


def record_failure(cluster: StepContext, worker: Worker, now: float) -> None:
    """Count the failure of *worker* once: against the release on trial, or else against its slot."""
    group = cluster.groups.get(worker.group)
    if worker.failed or group is None:
        return
    worker.failed = True
    if upgrade_engine.undo_if_on_trial(cluster, worker, now):
        return
    for slot in count_failure(group, worker, now):
        detail = describe_exit(worker, [], now)
        cluster.publish(event_records.SlotBroken(group.name, slot.number, len(slot.history.failures), detail))


def conclude_exit(cluster: StepContext, worker: Worker, lines: list[str], now: float) -> None:
    """Report the exit of *worker* with its last lines; forget it once the processes that it left have ended."""
    if worker.left and worker.may_be_background:
        return  # known only when the processes that it left have ended
    if not worker.buried:
        worker.buried = True
        _report_exit(cluster, worker, lines, now)
    if not worker.left:
        del cluster.workers[worker.number]
        cluster.todo.append(actions.Forget(worker.number))


def _report_exit(cluster: StepContext, worker: Worker, lines: list[str], now: float) -> None:
    group = cluster.groups.get(worker.group)
    died_at = now if worker.died_at is None else worker.died_at
    soon = died_at - worker.since < BACKGROUND_SECONDS
    if worker.background and worker.may_be_background and soon and group is not None:
        worker.verdict = describe_background(worker.background, group.releases.get(worker.generation, group.release))
    detail = describe_exit(worker, lines, died_at)
    if worker.failed and (port := probed_ports.explain_failed_start(cluster, worker, lines)):
        detail += f"; {port}"
    signal = None if worker.signal is None else signal_name(worker.signal)
    repeated = group.tell(detail) if worker.failed and group else 0
    cluster.publish(
        event_records.WorkerExit(
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
    upgrade_engine.record_culprit_exit(group, worker, append_lines(detail, worker.stacks or lines))
    slot = group.slots.get(worker.slot)
    if slot is not None and slot.generation >= worker.generation:
        slot.last_exit = {
            "pid": worker.pid,
            "exit_code": worker.code,
            "signal": signal,
            "was_ready": worker.ready_at is not None,
            "detail": detail,
            "output": [line[:MAX_LINE_LENGTH] for line in excerpt(lines)],
        }
    if worker.ready_at is None:
        operation_tracking.fail_operations_of(cluster, worker, group, detail, [] if worker.elsewhere else lines, now)


def count_failure(group: Group, worker: Worker, now: float) -> list[Slot]:
    """Count a failure of *worker*; return the slots that are broken because of it."""
    slot = group.slots.get(worker.slot)
    if slot is None or slot.generation != worker.generation:
        return []
    if worker.ready_at is not None and now - worker.ready_at >= STEADY_SECONDS:
        slot.history = slot.history.steady()
    slot.history = slot.history.failed(now)
    slot.reason = worker.retire if worker.retire == "hang" else "failure"
    jitter = zlib.crc32(f"{worker.name}/{worker.number}".encode()) / 2**32
    judged = next_attempt(group.spec.restart, slot.history, now, jitter)
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
    """Count a failure of an unproven generation, once for all slots that tried it at the same time."""
    if group.trial.generation != worker.generation:
        group.trial = Trial(worker.generation)
    elif worker.since <= group.trial.failed_at:
        return []
    history = group.trial.history.failed(now)
    judged = next_attempt(group.spec.restart, history, now, jitter)
    group.trial = Trial(
        worker.generation, History(history.streak, history.failures, judged.broken), judged.at, failed_at=now
    )
    if not judged.broken:
        return []
    return [slot for slot in group.slots.values() if slot.generation == worker.generation]


def replace_hung(cluster: StepContext, worker: Worker, why: str, now: float) -> None:
    """Replace *worker*, which hangs, and have its stacks logged."""
    group = cluster.groups[worker.group]
    if not worker.serving or worker.retire == "hang":
        return
    on_trial = group.rollout is not None and worker.generation == group.rollout.new
    worker.retire, worker.verdict = "hang", why
    cluster.todo.append(actions.Dump(worker.number, why))
    record_failure(cluster, worker, now)
    slot = group.slots.get(worker.slot)
    if on_trial:
        stop_worker(cluster, worker, HUNG_STOP_SECONDS, "hang", now)
    elif slot is not None and slot.history.streak == 1 and slot.next_try is not None and not slot.broken:
        slot.next_try = now  # it did not crash, so its successor need not wait


TRIAL_INTERVAL = 1.0
"""Most seconds between two samples while a release is on trial, or a worker shows no progress."""

IDLE_INTERVAL = 5.0
"""Most seconds between two samples at other times."""

MIN_INTERVAL = 0.05
"""Fewest seconds between two samples."""

MAX_STACK_LINES = 40
"""Most lines of stacks in the reason of an operation."""

MAX_FAILED_CHECKS = 2
"""Failed checks in a row after which a worker is replaced."""

NO_PROGRESS = "its event loop or thread pool made no progress"


def sample_interval(cluster: StepContext) -> float | None:
    """Return the seconds between two samples; None: no samples are needed."""
    return min(_sample_intervals(cluster), default=None) if not cluster.ending else None


def _sample_intervals(cluster: StepContext) -> Iterator[float]:
    for group in cluster.groups.values():
        if group.rollout is not None and group.rollout.stage in LIVE_STAGES:
            yield TRIAL_INTERVAL
        if recycle.needs_samples(group.spec):
            yield recycle.RECYCLE_SAMPLE_INTERVAL
        if group.spec.hang_timeout:
            yield min(IDLE_INTERVAL, group.spec.hang_timeout / 10)
            for worker in cluster.workers_of(group.name):
                if worker.serving and worker.still >= FRESH_SECONDS and not worker.retire:
                    yield max(MIN_INTERVAL, min(TRIAL_INTERVAL, hang_limit(group, worker) - worker.still))


def handle_sample(cluster: StepContext, report: Sample, now: float) -> None:
    """Record the heartbeats, counts and memory of the workers; replace those that hang."""
    since = min(max(0.5, 2 * (sample_interval(cluster) or 0.0)), max(0.0, now - cluster.sampled_at))
    cluster.sampled_at = now
    for number, pulse in report.pulses.items():
        worker = cluster.workers.get(number)
        if worker is not None and worker.state != "gone":
            _count_responses(cluster, worker, pulse)
            _record_heartbeat(worker, pulse, since, now)
    for group in cluster.groups.values():
        for worker in cluster.workers_of(group.name):
            limit = hang_limit(group, worker)
            if limit and worker.serving and worker.still >= limit:
                what = "it has not said WATCHDOG=1" if worker.watchdog else NO_PROGRESS
                replace_hung(cluster, worker, f"hangs: {what} for {worker.still:.0f} s", now)
        if group.rollout is not None and group.rollout.stage in LIVE_STAGES:
            _compare_error_rates(cluster, group, group.rollout, now)


def _record_heartbeat(worker: Worker, pulse: Pulse, since: float, now: float) -> None:
    beat = worker.watchdog or pulse.beat
    turned = beat != worker.beat
    worker.still += since
    if beat == 0 or pulse.excused or now < worker.extended:
        worker.still = 0.0
    elif pulse.age is not None and not worker.watchdog:
        worker.still = min(pulse.age, since if turned else worker.still)
    elif turned:
        worker.still = 0.0
    worker.beat = beat
    if pulse.memory and worker.serving:
        worker.memory = pulse.memory
        worker.memory_at_first = worker.memory_at_first or pulse.memory


def _count_responses(cluster: StepContext, worker: Worker, pulse: Pulse) -> None:
    more = (pulse.requests - worker.requests, pulse.errors - worker.errors)
    worker.requests, worker.errors = pulse.requests, pulse.errors
    group = cluster.groups.get(worker.group)
    if group is not None and group.rollout is not None and worker.slot in group.slots:
        counts = group.rollout.answers["new" if worker.generation == group.rollout.new else "old"]
        counts[0] += more[0]
        counts[1] += more[1]


def handle_examined(cluster: StepContext, report: Examined, now: float) -> None:
    """Record the result of a health check; replace a worker that failed several in a row."""
    worker = cluster.workers.get(report.worker)
    if worker is None or not worker.serving or worker.group not in cluster.groups:
        return
    worker.missed = worker.missed + 1 if report.error and now >= worker.extended else 0
    if worker.missed >= MAX_FAILED_CHECKS:
        replace_hung(cluster, worker, f"is unhealthy: {report.error}", now)


def handle_stacks(cluster: StepContext, report: Dumped, _now: float) -> None:
    """Keep the stacks of a worker that hangs, and publish them."""
    for worker in cluster.workers.values():
        if worker.pid == report.pid and worker.state != "gone":
            worker.stacks = list(report.stacks[:MAX_STACK_LINES])
    cluster.publish(event_records.WorkerHung(report.group, report.slot, report.pid, report.why, report.stacks))


def extend_deadline(cluster: StepContext, worker: Worker, seconds: float, now: float) -> None:
    """Extend the deadline of *worker* by *seconds*, as it asked; while it stops, at most to ``Worker.stop_by``."""
    worker.extended = max(worker.extended, now + seconds)
    worker.still = 0.0
    if worker.deadline is None or worker.state not in ("starting", "draining", "stopping"):
        return
    limit, wanted = worker.stop_by, now + seconds
    if limit is not None and wanted > limit:
        if not worker.overdue:
            worker.overdue = True
            what = f"{worker.name} (pid {worker.pid}) asked for {seconds:g} s more to exit"
            cluster.todo.append(actions.Warn(f"{what}; it gets {max(0.0, limit - now):.0f} s and is then killed"))
        wanted = limit
    worker.deadline = max(worker.deadline, wanted)


def _compare_error_rates(cluster: StepContext, group: Group, rollout: Rollout, now: float) -> None:
    new, old = ResponseCounts(*rollout.answers["new"]), ResponseCounts(*rollout.answers["old"])
    if is_worse(new, old):
        than = f", of the old one {old.errors} of {old.total}" if old.total else ""
        why = f"{new.errors} of {new.total} answers of the new release were server errors (5xx){than}"
        upgrade_engine.begin_undo(cluster, group, why, now)
