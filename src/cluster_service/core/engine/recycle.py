"""Recycling: planned replacement of workers by memory, growth, requests, uptime or time of day.

A worker that is due is only marked (``Worker.retire``). ``rules.replacement`` does the rest: the successor serves
before the worker is stopped, and only a share of the group is replaced at a time, whatever the reason. Limits that all
workers reach at the same time are jittered.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

from cluster_service.core.protocol import event_records

if TYPE_CHECKING:
    from collections.abc import Callable

    from cluster_service.core.model.group import Group
    from cluster_service.core.model.spec import GroupSpec
    from cluster_service.core.model.worker import Worker
    from cluster_service.core.protocol.reports import Due

    from .step_context import StepContext

RECYCLE_SAMPLE_INTERVAL = 2.0
"""Most seconds between two samples if memory or requests are limited."""

LIMIT_JITTER = 0.1
"""Most by which a worker's limits of uptime and requests are shortened, as a share; it differs per worker."""


def measures_memory(spec: GroupSpec) -> bool:
    """Return whether the memory of the workers must be measured."""
    return bool(spec.max_memory or spec.max_growth)


def needs_samples(spec: GroupSpec) -> bool:
    """Return whether samples are needed to know when a worker is due."""
    return measures_memory(spec) or bool(spec.max_requests)


def _memory_rule(spec: GroupSpec, worker: Worker, _now: float) -> str:
    over = spec.max_memory and worker.memory > spec.max_memory
    return f"it uses {format_size(worker.memory)}, more than {format_size(spec.max_memory)}" if over else ""


def _growth_rule(spec: GroupSpec, worker: Worker, _now: float) -> str:
    grown = worker.memory - worker.memory_at_first
    over = spec.max_growth and grown > spec.max_growth
    return (
        f"it has grown by {format_size(grown)} since it began to serve, more than {format_size(spec.max_growth)}"
        if over
        else ""
    )


def _requests_rule(spec: GroupSpec, worker: Worker, _now: float) -> str:
    over = spec.max_requests and worker.requests >= apply_jitter(spec.max_requests, worker)
    return f"it has answered {worker.requests} requests of at most {spec.max_requests}" if over else ""


def _uptime_rule(spec: GroupSpec, worker: Worker, now: float) -> str:
    at = expires_at(spec, worker)
    return f"it has served for nearly {spec.max_uptime:g} s" if at is not None and now >= at else ""


RULES: tuple[Callable[[GroupSpec, Worker, float], str], ...] = (
    _memory_rule,
    _growth_rule,
    _requests_rule,
    _uptime_rule,
)
"""``rule(spec, worker, now)`` returns why the worker is due, or ""."""


def mark_due_workers(cluster: StepContext, group: Group, now: float) -> None:
    """Mark the workers of *group* that are due."""
    for worker in _candidates(cluster, group):
        why = next(filter(None, (rule(group.spec, worker, now) for rule in RULES)), "")
        if why:
            _mark_worker(cluster, group, worker, why)


def handle_due(cluster: StepContext, report: Due, now: float) -> None:
    """Mark the workers of a group whose scheduled time of recycling has come."""
    group = cluster.groups.get(report.group)
    if group is not None:
        for worker in _candidates(cluster, group):
            if worker.ready_at is not None and worker.ready_at <= now - report.ago:
                _mark_worker(cluster, group, worker, report.why)


def replace_without_port(cluster: StepContext, worker: Worker, address: str) -> None:
    """Mark *worker*, which no longer listens on *address* because another process shut down the shared socket."""
    group = cluster.groups.get(worker.group)
    slot = group.slots.get(worker.slot) if group is not None else None
    if cluster.ending or group is None or slot is None or worker.retire or not worker.staying:
        return
    if worker.generation == slot.generation:
        _mark_worker(cluster, group, worker, f"it lost {address}: another process had shut the socket down")


def expires_at(spec: GroupSpec, worker: Worker) -> float | None:
    """Return when *worker* reaches its uptime limit; None: it has none."""
    if not spec.max_uptime or worker.ready_at is None:
        return None
    return worker.ready_at + apply_jitter(spec.max_uptime, worker)


def list_expiries(cluster: StepContext) -> list[float]:
    """Return when the serving workers that are not marked yet reach their uptime limits."""
    groups = [group for group in cluster.groups.values() if group.spec.max_uptime]
    times = [expires_at(group.spec, worker) for group in groups for worker in _candidates(cluster, group)]
    return [at for at in times if at is not None]


def _candidates(cluster: StepContext, group: Group) -> list[Worker]:
    """Return the workers that may be recycled: they serve, are up to date, and not on trial."""
    if cluster.ending:
        return []
    on_trial = group.rollout.new if group.rollout is not None else None
    wanted = {number: slot.generation for number, slot in group.slots.items()}
    return [
        worker
        for worker in cluster.workers_of(group.name)
        if worker.serving and worker.is_of(wanted.get(worker.slot, 0)) and worker.generation != on_trial
    ]


def _mark_worker(cluster: StepContext, group: Group, worker: Worker, why: str) -> None:
    worker.retire = "recycle"
    group.slots[worker.slot].reason = "recycle"
    cluster.publish(event_records.WorkerRecycle(worker.group, worker.slot, worker.pid or 0, why))


def apply_jitter(limit: float, worker: Worker) -> float:
    """Return *limit*, shortened by up to a tenth, by a value that is constant for each worker."""
    return limit * (1 - LIMIT_JITTER * zlib.crc32(f"{worker.name}/{worker.number}".encode()) / 2**32)


def format_size(count: int) -> str:
    """Return *count* bytes as ``512 MiB``."""
    return f"{count / 2**30:.1f} GiB" if count >= 10 * 2**30 else f"{count / 2**20:.0f} MiB"
