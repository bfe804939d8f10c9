"""Facts: what is seen. Each edits what the cluster knows of a worker or a port; the turn draws the conclusions.

Recording a death and judging it are different jobs: ``exited`` records it at once (the slot may be tried again),
``bury`` tells of it when the worker's last lines have come, and only then operations judge it.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from cluster_service.wire import validation
from cluster_service.wire.facts import WorkerState

from . import actions, events, health_reports, judge, ports, recycle, rollouts, wanted
from .failures import bury, fail, hung
from .requests import Rejected, Restart
from .worker import LEAVING, Worker

if TYPE_CHECKING:
    from cluster_service.wire import facts

    from .step_context import StepContext

CRASH_SWEEP = 2.0
"""Seconds that what a worker has left may take to end, if the worker was not asked to stop."""

SWEEP_SLACK = 5.0
"""Seconds after the SIGKILL until what a worker has left is not waited for any longer."""

LAST_LINES = 1.0
"""Seconds that the log writer has to hand over the last lines of a worker that exited."""


def snapshot(cluster: StepContext, fact: facts.Snapshot, now: float) -> None:
    """Reconcile the notebook with what the guardian holds: after a cold start, a crash or an upgrade of the master."""
    states = {state["worker"]: WorkerState.from_json(state) for state in fact.workers}
    cluster.last_worker = max(cluster.last_worker, fact.last_worker)
    for worker in list(cluster.workers.values()):
        state = states.pop(worker.number, None)
        if state is not None:
            _see(cluster, worker, state, now)
        elif worker.state == "gone":
            worker.left = 0
            bury(cluster, worker, worker.output or [], now)
        elif worker.state == "ordered" and worker.number <= fact.last_worker:
            _cannot_start(cluster, worker, "the master died before it heard why", now)
        else:  # the order to start it never arrived
            worker.move("lost")
            del cluster.workers[worker.number]
    for state in states.values():
        _adopt_unknown(cluster, state, now)
    cluster.sees_ports = fact.share.get("seccomp") == ""
    cluster.refusing = {each["address"]: each["problem"] for each in fact.listeners if each.get("problem")}
    for listener in fact.listeners:
        if not listener["door"]:
            cluster.unused.setdefault(listener["address"], None)
    cluster.publish(events.MasterStart(sum(w.staying for w in cluster.workers.values()), fact.safe, fact.master_starts))
    for group in cluster.groups.values():
        rollouts.forget_orders(group)
    for operation in cluster.running():
        if operation.kind == "test":
            why = "the master was replaced while the test ran: run it again"
            judge.finish(cluster, operation, "failed", why, now)
    if not cluster.begun:
        cluster.begun = True
        slots = [[name, number] for name, group in cluster.groups.items() for number in group.slots]
        judge.begin(cluster, "start", "start", slots, now)
    if fact.stopping and not cluster.ending:
        wanted.shutdown_all(cluster, None, now)


def _see(cluster: StepContext, worker: Worker, state: WorkerState, now: float) -> None:
    """Bring what the notebook says of *worker* up to what the guardian says."""
    if worker.state == "ordered":
        _spawned(cluster, worker, state.pid, state.started_at)
        worker.deadline = now + worker.ready_timeout  # nobody watched it so far
    worker.told = worker.told if state.ready is None else state.ready
    worker.notified = worker.notified or state.notified.get("READY") == "1"
    worker.status = state.notified.get("STATUS", worker.status)
    worker.listening, worker.bound = list(state.listening) or list(state.private.values()), list(state.bound)
    worker.bind_error = state.bind_error
    by = "told" if worker.told is not None else "listen" if worker.listening else "notify" if worker.notified else ""
    if by:
        _speaks(cluster, worker, by)
    if state.exited:
        if worker.state != "gone":
            _exited(cluster, worker, state.code, state.signal, state.left, now)
        elif "sweep" not in state.signals:
            cluster.todo.append(actions.Sweep(worker.number, max(0.0, (worker.sweep_by or now) - now)))
        worker.left, worker.background = state.left, state.background or worker.background
        worker.output = state.output or worker.output
        if worker.output is not None:
            bury(cluster, worker, worker.output, now)
    elif worker.state in LEAVING and "stop" not in state.signals:
        worker.was_never_asked()
    if worker.state == "killing" and "kill" not in state.signals and not state.exited:
        cluster.todo.append(actions.Kill(worker.number))


def _adopt_unknown(cluster: StepContext, state: WorkerState, now: float) -> None:
    """Take in a worker that the notebook does not know of (it was lost): what it was started as comes with it."""
    meta = state.meta
    group = cluster.groups.get(str(meta.get("group")))
    if state.exited:
        cluster.todo += [actions.Sweep(state.worker), actions.Forget(state.worker)]
        return
    worker = Worker(
        state.worker,
        str(meta.get("group")),
        int(meta.get("slot", 0)),
        int(meta.get("generation", 0)),
        str(meta.get("reason", "start")),
        state.started_at,
    )
    cluster.workers[worker.number] = worker
    if group is not None and worker.generation >= group.generation:
        group.releases[worker.generation] = group.releases[group.generation]
        group.generation = group.promoted = worker.generation
    if group is not None and worker.slot in group.slots:
        group.slots[worker.slot].generation = max(worker.generation, group.slots[worker.slot].generation)
        worker.ready_timeout = group.spec.ready_timeout
    _see(cluster, worker, state, now)


def spawned(cluster: StepContext, fact: facts.Spawned, now: float) -> None:
    """There is a process."""
    worker = cluster.workers.get(fact.worker)
    if worker is not None and worker.can("spawned"):
        _spawned(cluster, worker, fact.pid, fact.at or now)


def _spawned(cluster: StepContext, worker: Worker, pid: int, at: float) -> None:
    worker.move("spawned")
    worker.pid, worker.since, worker.deadline = pid, at, at + worker.ready_timeout
    cluster.publish(events.WorkerStart(worker.group, worker.slot, pid, worker.reason, worker.generation))


def spawn_failed(cluster: StepContext, fact: facts.SpawnFailed, now: float) -> None:
    """There is none: counted like a worker that failed to start."""
    worker = cluster.workers.get(fact.worker)
    if worker is None or not worker.can("spawn_failed"):
        return
    _cannot_start(cluster, worker, fact.error, now)


def _cannot_start(cluster: StepContext, worker: Worker, error: str, now: float) -> None:
    worker.verdict = f"could not be started: {error}"
    worker.died_at = now
    worker.move("spawn_failed")
    fail(cluster, worker, now)
    bury(cluster, worker, [], now)


def exited(cluster: StepContext, fact: facts.Exited, now: float) -> None:
    """A process has ended: account for it at once, tell of it when its last lines have come."""
    worker = cluster.workers.get(fact.worker)
    if worker is not None and worker.can("exited"):
        _exited(cluster, worker, fact.code, fact.signal, fact.left, now)


def _exited(cluster: StepContext, worker: Worker, code: int | None, signal: int | None, left: int, now: float) -> None:
    after = _time_left(worker, now)
    worker.left, worker.sweep_by = left, now + after
    worker.code, worker.signal, worker.died_at = code, signal, now
    worker.move("exited")
    ports.remember(cluster, worker)
    worker.deadline = now + (after + SWEEP_SLACK if left else LAST_LINES)
    cluster.todo.append(actions.Sweep(worker.number, after))
    if not worker.stop_reason:
        fail(cluster, worker, now)


def _time_left(worker: Worker, now: float) -> float:
    """Return the seconds that what *worker* leaves has to end: the rest of the announced time, if it was asked."""
    if worker.state == "killing":
        return 0.0
    if worker.state in LEAVING and worker.deadline is not None:
        return max(0.0, worker.deadline - now)
    return CRASH_SWEEP


def swept(cluster: StepContext, fact: facts.Swept, now: float) -> None:
    """What the worker had left has ended."""
    worker = cluster.workers.get(fact.worker)
    if worker is None or worker.state != "gone":
        return
    worker.left, worker.background = 0, fact.background
    if worker.output is not None:
        bury(cluster, worker, worker.output, now)
    else:
        worker.deadline = now + LAST_LINES


def output(cluster: StepContext, fact: facts.Output, now: float) -> None:
    """The last lines have come."""
    worker = cluster.workers.get(fact.worker)
    if worker is not None and worker.state == "gone":
        worker.output = fact.lines
        bury(cluster, worker, fact.lines, now)


def listening(cluster: StepContext, fact: facts.Listening, _now: float) -> None:
    """A shared socket was opened, or a worker listens on it."""
    worker = cluster.workers.get(fact.worker or 0)
    if fact.descriptor:  # a door
        return
    if fact.asked:  # a dark canary's own
        if worker is not None and fact.address not in worker.listening:
            worker.listening.append(fact.address)
        return
    if fact.address not in cluster.unused:
        cluster.refusing.pop(fact.address, None)
        cluster.unused[fact.address] = None
        cluster.publish(events.PortOpen(fact.address))
    if worker is None or worker.state == "gone":
        return
    ports.has_listened(cluster, worker)
    if fact.bound:
        worker.bound = sorted({*worker.bound, fact.address})
    elif fact.address not in worker.listening:
        worker.listening.append(fact.address)
        _speaks(cluster, worker, "listen")
        if fact.address in worker.bound and worker.group in cluster.groups:
            cluster.groups[worker.group].relistens = True


def released(cluster: StepContext, fact: facts.Released, _now: float) -> None:
    """A worker had closed a socket, and the guardian has released it."""
    for worker in cluster.workers.values():
        for addresses in (worker.listening, worker.bound):
            if fact.address in addresses:
                addresses.remove(fact.address)
    cluster.refusing.pop(fact.address, None)
    if fact.address in cluster.unused:
        del cluster.unused[fact.address]
        cluster.publish(events.PortClosed(fact.address))


def listener_state(cluster: StepContext, fact: facts.ListenerState, _now: float) -> None:
    """A shared socket does not accept connections, or does again."""
    before = cluster.refusing.pop(fact.address, "")
    if fact.revived or bool(before) != bool(fact.problem):
        cluster.publish(events.PortShutdown(fact.address, not fact.problem, fact.problem))
    if fact.problem:
        cluster.refusing[fact.address] = fact.problem


def unlistened(cluster: StepContext, fact: facts.Unlistened, _now: float) -> None:
    """A worker has lost a port that the others have: another must take its place."""
    worker = cluster.workers.get(fact.worker)
    if worker is None or fact.address not in worker.addresses:
        return
    for addresses in (worker.listening, worker.bound):
        if fact.address in addresses:
            addresses.remove(fact.address)
    recycle.lost_port(cluster, worker, fact.address)


def listen_failed(cluster: StepContext, fact: facts.ListenFailed, _now: float) -> None:
    """A worker could not bind: most likely the cause of its death."""
    worker = cluster.workers.get(fact.worker or 0)
    if worker is not None:
        worker.bind_error = fact.error


def ready(cluster: StepContext, fact: facts.Ready, _now: float) -> None:
    """A worker said that it is ready, or not yet."""
    worker = cluster.workers.get(fact.worker)
    if worker is not None:
        worker.told = fact.ready
        _speaks(cluster, worker, "told")


def notified(cluster: StepContext, fact: facts.Notified, now: float) -> None:
    """A worker said something in the sd_notify way."""
    worker = cluster.workers.get(fact.worker)
    if worker is not None:
        if fact.fields.get("READY") == "1":
            worker.notified = True
            _speaks(cluster, worker, "notify")
        worker.status = fact.fields.get("STATUS", worker.status)
        worker.watchdog += fact.fields.get("WATCHDOG") == "1"
        longer = validation.seconds_of(fact.fields, "EXTEND_TIMEOUT_USEC")
        if longer is not None:
            health_reports.extend(cluster, worker, longer, now)
        if fact.fields.get("WATCHDOG") == "trigger":
            hung(cluster, worker, "says that it hangs (WATCHDOG=trigger)", now)


def _speaks(cluster: StepContext, worker: Worker, by: str) -> None:
    """Workers of this group say when they are ready, be it late: to be merely alive counts no more."""
    group = cluster.groups.get(worker.group)
    if group is not None:
        group.ready_by, group.silent = by, False


def signalled(cluster: StepContext, fact: facts.Signalled, now: float) -> None:
    """The guardian was sent a signal that is ours to act on."""
    if fact.signal in ("TERM", "INT") and not cluster.ending:
        wanted.shutdown_all(cluster, None, now)
    elif fact.signal == "HUP" and not cluster.running() and not cluster.ending:
        with contextlib.suppress(Rejected):  # nothing was changed, and there is nobody to tell
            wanted.restart(cluster, Restart("all"))(now)


