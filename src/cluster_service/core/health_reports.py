"""Watching workers: whether their loops turn, what they use, and how often they answer with an error.

What is seen comes as samples of the board. How long a loop has stood still is counted in samples, never in clock time:
while we, or the whole machine, were suspended there were no samples, so nobody is blamed for it; and it takes two
samples at least. Only a worker that serves is judged, and none before the time that it has asked for is over.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import actions, events, recycle, rollouts
from .failures import hung
from .health import Answers, worse
from .liveness import FRESH, allowed
from .stages import LIVE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .group import Group
    from .reports import Dumped, Examined, Pulse, Sample
    from .stages import Rollout
    from .step_context import StepContext
    from .worker import Worker

PACE = 1.0
"""Seconds between two samples while a release is on trial, or some worker gives no sign of life."""

IDLE_PACE = 5.0
"""The most at other times."""

SOON = 0.05
"""The least."""


STACKS = 40
"""Lines of the stacks that an operation's reason holds."""

MISSES = 2
"""Checks in a row that a worker may not fail."""

TURNED = "its loop, or its pool of threads, has not turned"


def pace(cluster: StepContext) -> float | None:
    """Seconds from one sample to the next; None: none are wanted."""
    return min(_paces(cluster), default=None) if not cluster.ending else None


def _paces(cluster: StepContext) -> Iterator[float]:
    for group in cluster.groups.values():
        if group.rollout is not None and group.rollout.stage in LIVE:
            yield PACE
        if recycle.measured(group.spec):
            yield recycle.PACE
        if group.spec.hang_timeout:
            yield min(IDLE_PACE, group.spec.hang_timeout / 10)
            for worker in cluster.of_group(group.name):
                if worker.serving and worker.still >= FRESH and not worker.retire:
                    yield max(SOON, min(PACE, allowed(group, worker) - worker.still))


def sample(cluster: StepContext, report: Sample, now: float) -> None:
    """Take in what the board says, and what the machine says of memory."""
    since = min(max(0.5, 2 * (pace(cluster) or 0.0)), max(0.0, now - cluster.sampled_at))
    cluster.sampled_at = now
    for number, pulse in report.pulses.items():
        worker = cluster.workers.get(number)
        if worker is not None and worker.state != "gone":
            _count(cluster, worker, pulse)
            _see(worker, pulse, since, now)
    for group in cluster.groups.values():
        for worker in cluster.of_group(group.name):
            limit = allowed(group, worker)
            if limit and worker.serving and worker.still >= limit:
                what = "it has not said WATCHDOG=1" if worker.watchdog else TURNED
                hung(cluster, worker, f"hangs: {what} for {worker.still:.0f} s", now)
        if group.rollout is not None and group.rollout.stage in LIVE:
            _compare(cluster, group, group.rollout, now)


def _see(worker: Worker, pulse: Pulse, since: float, now: float) -> None:
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


def _count(cluster: StepContext, worker: Worker, pulse: Pulse) -> None:
    more = (pulse.requests - worker.requests, pulse.errors - worker.errors)
    worker.requests, worker.errors = pulse.requests, pulse.errors
    group = cluster.groups.get(worker.group)
    if group is not None and group.rollout is not None and worker.slot in group.slots:
        counts = group.rollout.answers["new" if worker.generation == group.rollout.new else "old"]
        counts[0] += more[0]
        counts[1] += more[1]


def examined(cluster: StepContext, report: Examined, now: float) -> None:
    """A worker was asked whether it is well."""
    worker = cluster.workers.get(report.worker)
    if worker is None or not worker.serving or worker.group not in cluster.groups:
        return
    worker.missed = worker.missed + 1 if report.error and now >= worker.extended else 0
    if worker.missed >= MISSES:
        hung(cluster, worker, f"is not well: {report.error}", now)


def dumped(cluster: StepContext, report: Dumped, _now: float) -> None:
    """The stacks of a worker that hangs were written."""
    for worker in cluster.workers.values():
        if worker.pid == report.pid and worker.state != "gone":
            worker.stacks = list(report.stacks[:STACKS])
    cluster.publish(events.WorkerHung(report.group, report.slot, report.pid, report.why, report.stacks))


def extend(cluster: StepContext, worker: Worker, seconds: float, now: float) -> None:
    """*worker* asks for *seconds* more, whatever it is about to do. Its end has a limit, ``Worker.stop_by``."""
    worker.extended = max(worker.extended, now + seconds)
    worker.still = 0.0
    if worker.deadline is None or worker.state not in ("starting", "draining", "stopping"):
        return
    limit, wanted = worker.stop_by, now + seconds
    if limit is not None and wanted > limit:
        if not worker.overdue:
            worker.overdue = True
            what = f"{worker.name} (pid {worker.pid}) asked for {seconds:g} s more to end"
            cluster.todo.append(actions.Warn(f"{what}; it gets {max(0.0, limit - now):.0f} s, and is then killed"))
        wanted = limit
    worker.deadline = max(worker.deadline, wanted)


def _compare(cluster: StepContext, group: Group, rollout: Rollout, now: float) -> None:
    new, old = Answers(*rollout.answers["new"]), Answers(*rollout.answers["old"])
    if worse(new, old):
        than = f", of the old one {old.errors} of {old.total}" if old.total else ""
        why = f"{new.errors} of {new.total} answers of the new release were server errors (5xx){than}"
        rollouts.blame(cluster, group, why, now)


