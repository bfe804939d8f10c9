"""One step of the control loop.

Each round advances every worker, then orders the difference between the desired and the observed state of each group.
Rounds repeat until nothing changes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cluster_service.core.model.spec import GIVE_UP_CODE
from cluster_service.core.model.upgrade_state import UPGRADE_KINDS
from cluster_service.core.protocol import actions, event_records
from cluster_service.core.rules import port_checks
from cluster_service.core.rules.liveness import is_app, readiness, ready_after_seconds
from cluster_service.core.rules.shutdown_order import UNREADY_STOP_SECONDS, stop_timeout

from . import (
    failures,
    operation_tracking,
    probed_ports,
    recycle,
    request_handlers,
    spec_reload,
    upgrade_engine,
)
from .reconcile import reconcile_group, stop_worker

if TYPE_CHECKING:
    from cluster_service.core.model.group import Group
    from cluster_service.core.model.worker import Worker

    from .step_context import StepContext

MAX_ROUNDS = 100
"""Most rounds of a step. A few are enough; a step that needs more is a bug in the core."""

RETRY_SECONDS = 1.0
"""Seconds from a step that did not converge to the next one that only a deadline causes."""

MAX_FAULT_LENGTH = 2000
"""Most characters of the report about a step that did not converge."""

UNUSED_LISTENER_SECONDS = 1.0
"""Seconds for which a shared socket that no worker uses stays open, once every slot serves."""


def run_step(cluster: StepContext, now: float) -> None:
    """Append the actions that are due to ``cluster.todo``."""
    if cluster.drain_at is not None and cluster.may_time_out and now >= cluster.drain_at:
        request_handlers.end_service(cluster, cluster.ending, cluster.end_code)
    request_handlers.drop_slots_of_ending_groups(cluster)
    probed_ports.close_probed_ports(cluster)
    before = 0
    for _ in range(MAX_ROUNDS):
        before = len(cluster.todo)
        for worker in list(cluster.workers.values()):
            _advance_worker(cluster, worker, now)
        for group in cluster.groups.values():
            recycle.mark_due_workers(cluster, group, now)
            upgrade_engine.advance_upgrade(cluster, group, now)
            reconcile_group(cluster, group, now)
        for operation in cluster.running_operations():
            if operation.kind == "reload":
                spec_reload.track_reload(cluster, operation, now)
            elif operation.kind not in UPGRADE_KINDS and operation.kind != "test":
                operation_tracking.track_operation(cluster, operation, now)
        if len(cluster.todo) == before:
            break
    else:
        cluster.did_not_converge = True
        again = "; ".join(str(action) for action in cluster.todo[before:])[:MAX_FAULT_LENGTH]
        cluster.todo.append(actions.Fault(f"a step did not converge after {MAX_ROUNDS} rounds: {again}"))
    _close_unused_listeners(cluster, now)
    _end_when_empty(cluster, now)


def _advance_worker(cluster: StepContext, worker: Worker, now: float) -> None:
    """Move *worker* on if it has become ready, or if its deadline has passed."""
    due = cluster.may_time_out and worker.deadline is not None and now >= worker.deadline
    if worker.group not in cluster.groups:  # the checkpoint was lost, and the group with it
        stop_worker(cluster, worker, UNREADY_STOP_SECONDS, "shutdown", now)
    if worker.state == "starting" and worker.group in cluster.groups:
        by = readiness(
            worker, only_told=is_app(cluster, worker), ready_after=ready_after_seconds(cluster, worker), now=now
        )
        group = cluster.groups[worker.group]
        missing = port_checks.find_missing_port(cluster, group, worker)
        if not group.spec.expect_port:
            missing = ""  # it may still report that it is ready
        elif missing:
            by = None
        _check_ports(cluster, worker, now, ready=by is not None)
        if by is not None and not worker.elsewhere:
            _mark_ready(cluster, worker, by, now)
        elif due or _is_port_wait_over(cluster, worker, now):
            late = f"was not ready within {worker.ready_timeout:g} s"
            worker.verdict = worker.elsewhere or (f"{late}: it {missing}" if missing else late)
            worker.elsewhere_by = None
            failures.record_failure(cluster, worker, now)
            stop_worker(cluster, worker, min(UNREADY_STOP_SECONDS, stop_timeout(cluster, worker)), "failure", now)
    elif worker.state in ("draining", "stopping") and due:
        worker.move("kill")
        worker.deadline = None
        cluster.todo.append(actions.Kill(worker.number))
        cluster.publish(event_records.WorkerKill(worker.group, worker.slot, worker.pid or 0, worker.stop_reason))
        operation_tracking.record_kill(cluster, worker, now)
    elif worker.state == "gone" and due:
        worker.left = 0
        failures.conclude_exit(cluster, worker, worker.output or [], now)


def _check_ports(cluster: StepContext, worker: Worker, now: float, *, ready: bool) -> None:
    """Check whether *worker*, once it is *ready*, listens on the expected ports (see ``port_checks``)."""
    before = worker.elsewhere
    worker.elsewhere = port_checks.find_port_change(cluster, cluster.groups[worker.group], worker) if ready else ""
    if not worker.elsewhere:
        worker.elsewhere_by = None
    elif not before:
        if port_checks.predecessor_serves(cluster, worker):
            worker.elsewhere_by = now + port_checks.PORT_WAIT
        for operation in cluster.running_operations():
            if operation.concerns(worker.group, worker.slot):
                operation_tracking.add_step(
                    cluster, operation, f"{worker.name} (pid {worker.pid}) {worker.elsewhere}", now
                )


def _is_port_wait_over(cluster: StepContext, worker: Worker, now: float) -> bool:
    return cluster.may_time_out and worker.elsewhere_by is not None and now >= worker.elsewhere_by


def _mark_ready(cluster: StepContext, worker: Worker, by: str, now: float) -> None:
    worker.move("ready")
    worker.ready_at, worker.deadline, worker.still = now, None, 0.0
    worker.elsewhere_by = None
    group = cluster.groups[worker.group]
    group.prove(worker)
    group.silent = group.silent or (by == "alive" and not group.ready_by)
    cluster.publish(
        event_records.WorkerReady(worker.group, worker.slot, worker.pid or 0, by, round(now - worker.since, 3))
    )
    slot = group.slots.get(worker.slot)
    if slot is not None:
        slot.ports = []  # from now on the worker itself shows them
    if slot is not None and slot.generation == worker.generation and slot.broken:
        slot.broken = False
        cluster.publish(event_records.SlotRecovered(worker.group, worker.slot))
    for operation in cluster.running_operations():
        watched = group.rollout is not None and group.rollout.stage == "canary"  # the stage reports it
        if operation.concerns(worker.group, worker.slot) and not watched:
            operation_tracking.add_step(cluster, operation, f"{worker.name} (pid {worker.pid}) is serving", now)


def _close_unused_listeners(cluster: StepContext, now: float) -> None:
    """Close the shared sockets that no worker uses. Until every slot serves, a worker may still need them."""
    if cluster.ending:
        return
    used = {address for worker in cluster.workers.values() if worker.state != "gone" for address in worker.addresses}
    for group in cluster.groups.values():
        used |= {bind for release in group.releases.values() for bind in release.binds}
    settled = all(_is_settled(cluster, group) for group in cluster.groups.values())
    for address, since in list(cluster.unused.items()):
        if address in used or not settled:
            cluster.unused[address] = None
        elif since is None:
            cluster.unused[address] = now
        elif now >= since + UNUSED_LISTENER_SECONDS:
            del cluster.unused[address]
            cluster.todo.append(actions.CloseListener(address))
            cluster.publish(event_records.PortClosed(address))


def _is_settled(cluster: StepContext, group: Group) -> bool:
    if group.rollout is not None:
        return False  # an undo may need the ports of the old release
    workers = cluster.workers_of(group.name)
    serving = {(worker.slot, worker.generation) for worker in workers if worker.serving}
    wanted = {(slot.number, slot.generation) for slot in group.slots.values()}
    return wanted <= serving and not any(worker.booting for worker in workers)


def _end_when_empty(cluster: StepContext, now: float) -> None:
    slots = [slot for group in cluster.groups.values() for slot in group.slots.values()]
    if cluster.spec.give_up == "all-broken" and not cluster.ending and slots and all(slot.broken for slot in slots):
        for operation in cluster.running_operations():
            operation_tracking.finish_operation(
                cluster, operation, "failed", "every slot is broken: the service gave up", now
            )
        request_handlers.end_service(cluster, "failure", GIVE_UP_CODE)
        for group in cluster.groups.values():
            reconcile_group(cluster, group, now)
    if cluster.ending and cluster.drain_at is None and not cluster.workers:
        cluster.ended = True
        cluster.todo.append(end_action(cluster))


def end_action(cluster: StepContext) -> actions.End:
    """Return the action that ends the service."""
    return actions.End(cluster.end_code, now=cluster.ending == "exit")
