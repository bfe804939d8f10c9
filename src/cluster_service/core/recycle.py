"""Recycling: replacing workers that have served for long enough, by what they use, for how long, or by the clock.

A worker that is due is only marked (``Worker.retire``). The rest is the arithmetic of ``rollout``: its successor serves
before it is asked to end, and few are replaced at a time, whatever for. Limits that grow at the same pace in all
workers are jittered, so that they do not come due together.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

from . import events

if TYPE_CHECKING:
    from collections.abc import Callable

    from .group import Group
    from .reports import Due
    from .spec import GroupSpec
    from .step_context import StepContext
    from .worker import Worker

PACE = 2.0
"""Seconds between two samples, at most, where memory or requests are limited."""

JITTER = 0.1
"""The share by which the limits of uptime and requests may be shorter; how much of it, is each worker's own."""


def weighed(spec: GroupSpec) -> bool:
    """Whether its workers' memory is to be looked at."""
    return bool(spec.max_memory or spec.max_growth)


def measured(spec: GroupSpec) -> bool:
    """Whether samples are wanted to see when a worker is due."""
    return weighed(spec) or bool(spec.max_requests)


def _memory(spec: GroupSpec, worker: Worker, _now: float) -> str:
    over = spec.max_memory and worker.memory > spec.max_memory
    return f"it uses {size(worker.memory)}, more than {size(spec.max_memory)}" if over else ""


def _growth(spec: GroupSpec, worker: Worker, _now: float) -> str:
    grown = worker.memory - worker.memory_at_first
    over = spec.max_growth and grown > spec.max_growth
    return f"it has grown by {size(grown)} since it began to serve, more than {size(spec.max_growth)}" if over else ""


def _requests(spec: GroupSpec, worker: Worker, _now: float) -> str:
    over = spec.max_requests and worker.requests >= jittered(spec.max_requests, worker)
    return f"it has answered {worker.requests} requests of at most {spec.max_requests}" if over else ""


def _uptime(spec: GroupSpec, worker: Worker, now: float) -> str:
    at = expires_at(spec, worker)
    return f"it has served for nearly {spec.max_uptime:g} s" if at is not None and now >= at else ""


RULES: tuple[Callable[[GroupSpec, Worker, float], str], ...] = (_memory, _growth, _requests, _uptime)
"""``rule(spec, worker, now)`` returns why the worker is due, or nothing."""


def look(cluster: StepContext, group: Group, now: float) -> None:
    """Mark the workers of *group* that are due."""
    for worker in _candidates(cluster, group):
        why = next(filter(None, (rule(group.spec, worker, now) for rule in RULES)), "")
        if why:
            _mark(cluster, group, worker, why)


def due(cluster: StepContext, report: Due, now: float) -> None:
    """It is the time of day at which the workers of a group are to be recycled."""
    group = cluster.groups.get(report.group)
    if group is not None:
        for worker in _candidates(cluster, group):
            if worker.ready_at is not None and worker.ready_at <= now - report.ago:
                _mark(cluster, group, worker, report.why)


def lost_port(cluster: StepContext, worker: Worker, address: str) -> None:
    """*worker* no longer listens on *address*: another process had shut down the socket that they share."""
    group = cluster.groups.get(worker.group)
    slot = group.slots.get(worker.slot) if group is not None else None
    if cluster.ending or group is None or slot is None or worker.retire or not worker.staying:
        return
    if worker.generation == slot.generation:
        _mark(cluster, group, worker, f"it lost {address}: another process had shut the socket down")


def expires_at(spec: GroupSpec, worker: Worker) -> float | None:
    """When *worker* has served for long enough; None: never."""
    if not spec.max_uptime or worker.ready_at is None:
        return None
    return worker.ready_at + jittered(spec.max_uptime, worker)


def expiries(cluster: StepContext) -> list[float]:
    """When the workers that serve, and have not been marked, will have served for long enough."""
    groups = [group for group in cluster.groups.values() if group.spec.max_uptime]
    times = [expires_at(group.spec, worker) for group in groups for worker in _candidates(cluster, group)]
    return [at for at in times if at is not None]


def _candidates(cluster: StepContext, group: Group) -> list[Worker]:
    """The workers that can be due: what a slot wants, and not on trial."""
    if cluster.ending:
        return []
    on_trial = group.rollout.new if group.rollout is not None else None
    wanted = {number: slot.generation for number, slot in group.slots.items()}
    return [
        worker
        for worker in cluster.of_group(group.name)
        if worker.serving and worker.is_of(wanted.get(worker.slot, 0)) and worker.generation != on_trial
    ]


def _mark(cluster: StepContext, group: Group, worker: Worker, why: str) -> None:
    worker.retire = "recycle"
    group.slots[worker.slot].reason = "recycle"
    cluster.publish(events.WorkerRecycle(worker.group, worker.slot, worker.pid or 0, why))


def jittered(limit: float, worker: Worker) -> float:
    """*limit*, less up to a tenth of it."""
    return limit * (1 - JITTER * zlib.crc32(f"{worker.name}/{worker.number}".encode()) / 2**32)


def size(count: int) -> str:
    """``512 MiB``: short enough for a sentence."""
    return f"{count / 2**30:.1f} GiB" if count >= 10 * 2**30 else f"{count / 2**20:.0f} MiB"
