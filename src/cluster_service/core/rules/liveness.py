"""Whether a worker is ready, and whether it makes progress."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cluster_service.core.model.upgrade_state import LIVE_STAGES

from . import port_checks

if TYPE_CHECKING:
    from cluster_service.core.model.cluster_state import ClusterState
    from cluster_service.core.model.group import Group
    from cluster_service.core.model.worker import Worker

READY_AFTER = 5.0
"""Seconds after which a worker that neither reports readiness nor listens counts as ready."""

READY_AFTER_SILENT = 1.0
"""The same if it is known not to listen: the default of supervisord's startsecs."""


def readiness(worker: Worker, *, only_told: bool, ready_after: float | None, now: float) -> str | None:
    """Return how *worker* became ready (told, listen, notify, alive), or None if it is not ready yet.

    A readiness message takes precedence: a worker that sent "not yet" is not ready, whatever else it does. *only_told*:
    only a message counts, because the runtime that serves the app sends it. *ready_after*: seconds after which a
    running worker counts as ready; None: never.
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


def is_app(cluster: ClusterState, worker: Worker) -> bool:
    """Return whether *worker* is ready only when its runtime reports it: it serves an app."""
    group = cluster.groups.get(worker.group)
    release = group.releases.get(worker.generation) if group else None
    return release is not None and release.kind == "app"


def ready_after_seconds(cluster: ClusterState, worker: Worker) -> float | None:
    """Return the seconds after which *worker* counts as ready without a signal; None: it must send one."""
    group = cluster.groups.get(worker.group)
    if group is None or is_app(cluster, worker):
        return None
    silent = bool(worker.bound) and not group.relistens  # it may consider a port that it has bound to be ready
    if (group.ready_by and not silent) or port_checks.find_missing_port(cluster, group, worker):
        return None
    if group.spec.ready_after is not None:
        return group.spec.ready_after
    known = group.silent and group.releases.get(worker.generation) == group.release
    return READY_AFTER_SILENT if known or group.spec.expect_port is False else READY_AFTER

FRESH_SECONDS = 1.0
"""Seconds without progress that are normal."""

MIN_TRIAL_HANG_SECONDS = 5.0
"""Lower limit of the hang limit of a release on trial, in seconds."""


def hang_limit(group: Group, worker: Worker) -> float:
    """Return the seconds for which *worker* may make no progress; 0: unlimited."""
    limit, rollout = group.spec.hang_timeout, group.rollout
    if rollout is None or rollout.stage not in LIVE_STAGES or worker.generation != rollout.new:
        return limit
    return min(limit, max(MIN_TRIAL_HANG_SECONDS, rollout.monitor))


def is_responsive(group: Group, worker: Worker) -> bool:
    """Return whether *worker* made progress recently and failed no check; without hang detection it always did."""
    turns = not group.spec.hang_timeout or bool(worker.watchdog) or worker.still < FRESH_SECONDS
    return turns and not worker.missed
