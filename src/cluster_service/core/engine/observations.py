"""Handlers of the guardian's facts. Each edits the observed state of a worker or a port; the step draws conclusions.

An exit is recorded at once, so that the slot can be retried. It is reported when the worker's last lines have arrived
(``failures.conclude_exit``), and only then can it fail an operation.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from cluster_service.core.model.worker import LEAVING, Worker
from cluster_service.core.protocol import actions, event_records
from cluster_service.core.protocol.requests import Rejected, Restart
from cluster_service.core.rules import port_checks
from cluster_service.wire import validation
from cluster_service.wire.facts import WorkerState

from . import (
    failures,
    operation_tracking,
    recycle,
    request_handlers,
    upgrade_engine,
)
from .failures import conclude_exit, record_failure, replace_hung

if TYPE_CHECKING:
    from cluster_service.wire import facts

    from .step_context import StepContext

CRASH_SWEEP_SECONDS = 2.0
"""Seconds that processes left by a worker have to exit, if the worker was not asked to exit."""

SWEEP_SLACK_SECONDS = 5.0
"""Seconds after SIGKILL until the core no longer waits for processes that a worker left."""

LAST_LINES_SECONDS = 1.0
"""Seconds that the log writer has to send the last lines of a worker that exited."""


def handle_snapshot(cluster: StepContext, fact: facts.Snapshot, now: float) -> None:
    """Update the restored state to the guardian's snapshot, after a start, crash or replacement of the master."""
    cluster.last_worker = max(cluster.last_worker, fact.last_worker)
    _update_workers(cluster, fact, now)
    cluster.sees_ports = fact.share.get("seccomp") == ""
    cluster.refusing = {each["address"]: each["problem"] for each in fact.listeners if each.get("problem")}
    for listener in fact.listeners:
        if not listener["door"]:
            cluster.unused.setdefault(listener["address"], None)
    cluster.publish(
        event_records.MasterStart(sum(w.staying for w in cluster.workers.values()), fact.safe, fact.master_starts)
    )
    for group in cluster.groups.values():
        upgrade_engine.reset_ordered_jobs(group)
    for operation in cluster.running_operations():
        if operation.kind == "test":
            why = "the master was replaced while the test ran: run it again"
            operation_tracking.finish_operation(cluster, operation, "failed", why, now)
    if not cluster.begun:
        cluster.begun = True
        slots = [[name, number] for name, group in cluster.groups.items() for number in group.slots]
        operation_tracking.begin_operation(cluster, "start", "start", slots, now)
    if fact.stopping and not cluster.ending:
        request_handlers.begin_shutdown(cluster, None, now)


def _update_workers(cluster: StepContext, fact: facts.Snapshot, now: float) -> None:
    """Update the restored workers to the guardian's snapshot, and adopt those that the checkpoint does not contain."""
    states = {state["worker"]: WorkerState.from_json(state) for state in fact.workers}
    for worker in list(cluster.workers.values()):
        state = states.pop(worker.number, None)
        if state is not None:
            _update_worker(cluster, worker, state, now)
        elif worker.state == "gone":
            worker.left = 0
            conclude_exit(cluster, worker, worker.output or [], now)
        elif worker.state == "ordered" and worker.number <= fact.last_worker:
            _record_spawn_failure(cluster, worker, "the master exited before it received the reason", now)
        else:  # the guardian never received the order to start it
            worker.move("lost")
            del cluster.workers[worker.number]
    for state in states.values():
        _adopt_unknown(cluster, state, now)


def _update_worker(cluster: StepContext, worker: Worker, state: WorkerState, now: float) -> None:
    """Update *worker*, as restored from the checkpoint, to the guardian's state of it."""
    if worker.state == "ordered":
        _record_spawn(cluster, worker, state.pid, state.started_at)
        worker.deadline = now + worker.ready_timeout  # no master has observed it so far
    worker.told = worker.told if state.ready is None else state.ready
    worker.notified = worker.notified or state.notified.get("READY") == "1"
    worker.status = state.notified.get("STATUS", worker.status)
    worker.listening, worker.bound = list(state.listening) or list(state.private.values()), list(state.bound)
    worker.bind_error = state.bind_error
    by = "told" if worker.told is not None else "listen" if worker.listening else "notify" if worker.notified else ""
    if by:
        _record_readiness_signal(cluster, worker, by)
    if state.exited:
        if worker.state != "gone":
            _record_exit(cluster, worker, state.code, state.signal, state.left, now)
        elif "sweep" not in state.signals:
            cluster.todo.append(actions.Sweep(worker.number, max(0.0, (worker.sweep_by or now) - now)))
        worker.left, worker.background = state.left, state.background or worker.background
        worker.output = state.output or worker.output
        if worker.output is not None:
            conclude_exit(cluster, worker, worker.output, now)
    elif worker.state in LEAVING and "stop" not in state.signals:
        worker.was_never_asked()
    if worker.state == "killing" and "kill" not in state.signals and not state.exited:
        cluster.todo.append(actions.Kill(worker.number))


def _adopt_unknown(cluster: StepContext, state: WorkerState, now: float) -> None:
    """Adopt a worker that is not in the checkpoint, which was lost; its start data comes with the snapshot."""
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
    _update_worker(cluster, worker, state, now)


def handle_spawned(cluster: StepContext, fact: facts.Spawned, now: float) -> None:
    """Record that the process of a worker exists."""
    worker = cluster.workers.get(fact.worker)
    if worker is not None and worker.can("spawned"):
        _record_spawn(cluster, worker, fact.pid, fact.at or now)


def _record_spawn(cluster: StepContext, worker: Worker, pid: int, at: float) -> None:
    worker.move("spawned")
    worker.pid, worker.since, worker.deadline = pid, at, at + worker.ready_timeout
    cluster.publish(event_records.WorkerStart(worker.group, worker.slot, pid, worker.reason, worker.generation))


def handle_spawn_failed(cluster: StepContext, fact: facts.SpawnFailed, now: float) -> None:
    """Record that a worker could not be started; this counts as a failure."""
    worker = cluster.workers.get(fact.worker)
    if worker is None or not worker.can("spawn_failed"):
        return
    _record_spawn_failure(cluster, worker, fact.error, now)


def _record_spawn_failure(cluster: StepContext, worker: Worker, error: str, now: float) -> None:
    worker.verdict = f"could not be started: {error}"
    worker.died_at = now
    worker.move("spawn_failed")
    record_failure(cluster, worker, now)
    conclude_exit(cluster, worker, [], now)


def handle_exited(cluster: StepContext, fact: facts.Exited, now: float) -> None:
    """Record the exit of a worker. It is reported when its last lines have arrived."""
    worker = cluster.workers.get(fact.worker)
    if worker is not None and worker.can("exited"):
        _record_exit(cluster, worker, fact.code, fact.signal, fact.left, now)


def _record_exit(
    cluster: StepContext, worker: Worker, code: int | None, signal: int | None, left: int, now: float
) -> None:
    after = _seconds_until_sweep(worker, now)
    worker.left, worker.sweep_by = left, now + after
    worker.code, worker.signal, worker.died_at = code, signal, now
    worker.move("exited")
    port_checks.remember_ports(cluster, worker)
    worker.deadline = now + (after + SWEEP_SLACK_SECONDS if left else LAST_LINES_SECONDS)
    cluster.todo.append(actions.Sweep(worker.number, after))
    if not worker.stop_reason:
        record_failure(cluster, worker, now)


def _seconds_until_sweep(worker: Worker, now: float) -> float:
    """Return the seconds that processes left by *worker* have to exit: the rest of its deadline, if it has one."""
    if worker.state == "killing":
        return 0.0
    if worker.state in LEAVING and worker.deadline is not None:
        return max(0.0, worker.deadline - now)
    return CRASH_SWEEP_SECONDS


def handle_swept(cluster: StepContext, fact: facts.Swept, now: float) -> None:
    """Record that the processes which a worker left have ended."""
    worker = cluster.workers.get(fact.worker)
    if worker is None or worker.state != "gone":
        return
    worker.left, worker.background = 0, fact.background
    if worker.output is not None:
        conclude_exit(cluster, worker, worker.output, now)
    else:
        worker.deadline = now + LAST_LINES_SECONDS


def handle_output(cluster: StepContext, fact: facts.Output, now: float) -> None:
    """Record the last lines of a worker that has exited."""
    worker = cluster.workers.get(fact.worker)
    if worker is not None and worker.state == "gone":
        worker.output = fact.lines
        conclude_exit(cluster, worker, fact.lines, now)


def handle_listening(cluster: StepContext, fact: facts.Listening, _now: float) -> None:
    """Record that a shared socket was opened, or that a worker binds or listens on it."""
    worker = cluster.workers.get(fact.worker or 0)
    if fact.descriptor:  # an endpoint of the service itself
        return
    if fact.asked:  # the isolated socket of a preview worker
        if worker is not None and fact.address not in worker.listening:
            worker.listening.append(fact.address)
        return
    if fact.address not in cluster.unused:
        cluster.refusing.pop(fact.address, None)
        cluster.unused[fact.address] = None
        cluster.publish(event_records.PortOpen(fact.address))
    if worker is None or worker.state == "gone":
        return
    port_checks.record_listening(cluster, worker)
    if fact.bound:
        worker.bound = sorted({*worker.bound, fact.address})
    elif fact.address not in worker.listening:
        worker.listening.append(fact.address)
        _record_readiness_signal(cluster, worker, "listen")
        if fact.address in worker.bound and worker.group in cluster.groups:
            cluster.groups[worker.group].relistens = True


def handle_released(cluster: StepContext, fact: facts.Released, _now: float) -> None:
    """Record that the guardian has closed a shared socket that no worker has open."""
    for worker in cluster.workers.values():
        for addresses in (worker.listening, worker.bound):
            if fact.address in addresses:
                addresses.remove(fact.address)
    cluster.refusing.pop(fact.address, None)
    if fact.address in cluster.unused:
        del cluster.unused[fact.address]
        cluster.publish(event_records.PortClosed(fact.address))


def handle_listener_state(cluster: StepContext, fact: facts.ListenerState, _now: float) -> None:
    """Record whether a shared socket accepts connections."""
    before = cluster.refusing.pop(fact.address, "")
    if fact.revived or bool(before) != bool(fact.problem):
        cluster.publish(event_records.PortShutdown(fact.address, not fact.problem, fact.problem))
    if fact.problem:
        cluster.refusing[fact.address] = fact.problem


def handle_unlistened(cluster: StepContext, fact: facts.Unlistened, _now: float) -> None:
    """Record that a worker lost a port that the others still have; it is replaced."""
    worker = cluster.workers.get(fact.worker)
    if worker is None or fact.address not in worker.addresses:
        return
    for addresses in (worker.listening, worker.bound):
        if fact.address in addresses:
            addresses.remove(fact.address)
    recycle.replace_without_port(cluster, worker, fact.address)


def handle_listen_failed(cluster: StepContext, fact: facts.ListenFailed, _now: float) -> None:
    """Record that a worker could not bind: probably the cause if it exits."""
    worker = cluster.workers.get(fact.worker or 0)
    if worker is not None:
        worker.bind_error = fact.error


def handle_ready(cluster: StepContext, fact: facts.Ready, _now: float) -> None:
    """Record that a worker reported that it is ready, or not yet."""
    worker = cluster.workers.get(fact.worker)
    if worker is not None:
        worker.told = fact.ready
        _record_readiness_signal(cluster, worker, "told")


def handle_notified(cluster: StepContext, fact: facts.Notified, now: float) -> None:
    """Record the fields of an sd_notify message."""
    worker = cluster.workers.get(fact.worker)
    if worker is not None:
        if fact.fields.get("READY") == "1":
            worker.notified = True
            _record_readiness_signal(cluster, worker, "notify")
        worker.status = fact.fields.get("STATUS", worker.status)
        worker.watchdog += fact.fields.get("WATCHDOG") == "1"
        longer = validation.seconds_of(fact.fields, "EXTEND_TIMEOUT_USEC")
        if longer is not None:
            failures.extend_deadline(cluster, worker, longer, now)
        if fact.fields.get("WATCHDOG") == "trigger":
            replace_hung(cluster, worker, "reported that it hangs (WATCHDOG=trigger)", now)


def _record_readiness_signal(cluster: StepContext, worker: Worker, by: str) -> None:
    """Record how workers of this group report readiness; merely running no longer counts for them."""
    group = cluster.groups.get(worker.group)
    if group is not None:
        group.ready_by, group.silent = by, False


def handle_signalled(cluster: StepContext, fact: facts.Signalled, now: float) -> None:
    """Act on a signal that the guardian received: TERM and INT shut down, HUP restarts all workers."""
    if fact.signal in ("TERM", "INT") and not cluster.ending:
        request_handlers.begin_shutdown(cluster, None, now)
    elif fact.signal == "HUP" and not cluster.running_operations() and not cluster.ending:
        with contextlib.suppress(Rejected):  # nothing has changed, and there is no client to notify
            request_handlers.plan_restart(cluster, Restart("all"))(now)


