"""Whether a worker is ready, and whether it is alive."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import ports
from .stages import LIVE

if TYPE_CHECKING:
    from .cluster_state import ClusterState
    from .group import Group
    from .worker import Worker

READY_AFTER = 5.0
"""Seconds alive after which a worker that says nothing is ready."""

READY_AFTER_SILENT = 1.0
"""The same where it is known not to listen: the default of supervisord's startsecs."""


def readiness(worker: Worker, *, only_told: bool, ready_after: float | None, now: float) -> str | None:
    """Return how *worker* is ready (told, listen, notify, alive) or None when it is not, or not yet.

    Told goes before everything: a worker that said "not yet" is waited for, whatever else it does. *only_told*: it is
    an app, and the runtime that serves it tells. *ready_after*: seconds alive that count as ready; None: never.
    """
    if worker.told is not None or only_told:
        return "told" if worker.told else None
    if worker.listening:
        return "listen"
    if worker.notified:
        return "notify"
    if ready_after is not None and now >= worker.since + ready_after:
        return "alive"
    return None


def only_told(cluster: ClusterState, worker: Worker) -> bool:
    """Return whether *worker* is ready only when its runtime reports it: it serves an app."""
    group = cluster.groups.get(worker.group)
    release = group.releases.get(worker.generation) if group else None
    return release is not None and release.kind == "app"


def ready_after(cluster: ClusterState, worker: Worker) -> float | None:
    """Seconds alive that make *worker* ready; None where workers of its group have been known to say so."""
    group = cluster.groups.get(worker.group)
    if group is None or only_told(cluster, worker):
        return None
    silent = bool(worker.bound) and not group.relistens  # it may take its port for ready as it is
    if (group.ready_by and not silent) or ports.lacks_port(cluster, group, worker):
        return None
    if group.spec.ready_after is not None:
        return group.spec.ready_after
    known = group.silent and group.releases.get(worker.generation) == group.release
    return READY_AFTER_SILENT if known or group.spec.expect_port is False else READY_AFTER

FRESH = 1.0
"""Seconds without a sign of life that mean nothing."""

LEAST_HANG = 5.0
"""Seconds that a loop of a release on trial may stand still at least."""


def allowed(group: Group, worker: Worker) -> float:
    """Seconds for which the loop of *worker* may stand still; 0: any."""
    limit, rollout = group.spec.hang_timeout, group.rollout
    if rollout is None or rollout.stage not in LIVE or worker.generation != rollout.new:
        return limit
    return min(limit, max(LEAST_HANG, rollout.monitor))


def is_fresh(group: Group, worker: Worker) -> bool:
    """Whether it has given a sign of life of late, and no other; one that gives none, or need not, is taken to live."""
    turns = not group.spec.hang_timeout or bool(worker.watchdog) or worker.still < FRESH
    return turns and not worker.missed
