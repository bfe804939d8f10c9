"""Watching workers: whether their loops turn, and how often they answer with an error.

What is seen comes as samples of the board. How long a loop has stood still is counted in samples, never in clock time:
while we, or the whole machine, were suspended there were no samples, so nobody is blamed for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import rollouts, seen
from .health import Answers, worse
from .reconcile import stop
from .stages import LIVE

if TYPE_CHECKING:
    from .cluster import Cluster
    from .group import Group
    from .reports import Pulse, Sample
    from .stages import Rollout
    from .worker import Worker

PACE = 1.0
"""Seconds between two samples."""

MOST = 2 * PACE
"""Seconds that one sample can add to the time for which a loop stands still."""

LEAST_HANG = 5.0
"""Seconds that a loop of a release on trial may stand still at least."""

HANG_STOP = 5.0
"""Seconds that a worker which hangs has to end: it will hardly hear that it is asked to."""


def sample(cluster: Cluster, report: Sample, now: float) -> None:
    """Take in what the board says."""
    since = min(MOST, max(0.0, now - cluster.sampled_at))
    cluster.sampled_at = now
    for number, pulse in report.pulses.items():
        worker = cluster.workers.get(number)
        if worker is not None and worker.state != "gone":
            _count(cluster, worker, pulse)
            worker.still = worker.still + since if pulse.beat == worker.beat != 0 else 0.0
            worker.beat = pulse.beat
    for group in cluster.groups.values():
        if group.rollout is not None and group.rollout.stage in LIVE:
            _judge(cluster, group, group.rollout, now)


def _count(cluster: Cluster, worker: Worker, pulse: Pulse) -> None:
    more = (pulse.requests - worker.requests, pulse.errors - worker.errors)
    worker.requests, worker.errors = pulse.requests, pulse.errors
    group = cluster.groups.get(worker.group)
    if group is not None and group.rollout is not None and worker.slot in group.slots:
        counts = group.rollout.answers["new" if worker.generation == group.rollout.new else "old"]
        counts[0] += more[0]
        counts[1] += more[1]


def _judge(cluster: Cluster, group: Group, rollout: Rollout, now: float) -> None:
    limit = group.spec.hang_timeout
    allowed = min(limit, max(LEAST_HANG, rollout.monitor))
    for worker in cluster.of_group(group.name):
        if limit and worker.generation == rollout.new and worker.serving and worker.still >= allowed:
            worker.verdict = f"hangs: its loop has not turned for {worker.still:.0f} s"
            seen.fail(cluster, worker, now)
            stop(cluster, worker, HANG_STOP, "hang", now)
            return
    new, old = Answers(*rollout.answers["new"]), Answers(*rollout.answers["old"])
    if worse(new, old):
        than = f", of the old one {old.errors} of {old.total}" if old.total else ""
        why = f"{new.errors} of {new.total} answers of the new release were server errors (5xx){than}"
        rollouts.blame(cluster, group, why, now)


def is_fresh(group: Group, worker: Worker) -> bool:
    """Whether its loop has turned of late; that of one that gives no beat, or need not, is taken to."""
    return worker.still == 0.0 or not group.spec.hang_timeout


def missing_ports(cluster: Cluster, group: Group, rollout: Rollout, canary: Worker) -> str:
    """The addresses on which every worker of the old release listens, and the canary does not; for a sentence."""
    old = [each for each in cluster.of_group(group.name) if each.serving and each.generation != rollout.new]
    common = set.intersection(*(set(each.addresses) for each in old)) if old else set()
    return ", ".join(sorted(common - set(canary.addresses)))
