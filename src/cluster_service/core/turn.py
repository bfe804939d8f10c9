"""A turn: each worker moves on, each group's difference between wanted and seen is ordered, until nothing changes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import actions, asked, events, failures, judge, ports, recycle, reload, rollouts, wanted
from .liveness import only_told, readiness, ready_after
from .reconcile import reconcile, stop
from .shutdown import BOOT_STOP, stop_timeout
from .spec import GIVE_UP_CODE
from .stages import KINDS

if TYPE_CHECKING:
    from .group import Group
    from .step_context import StepContext
    from .worker import Worker

MAX_ROUNDS = 100
"""Rounds after which a turn that still finds something to do is given up: it is a mistake, a few rounds suffice."""

TRY_AGAIN = 1.0
"""Seconds until a turn that was given up may be followed by one that nothing but time brings about."""

MAX_FAULT_LENGTH = 2000
"""Characters that the report of such a turn holds."""

LINGER = 1.0
"""Seconds for which a shared socket without users stays open, once every slot serves."""


def turn(cluster: StepContext, now: float) -> None:
    """Order what is to be done now into ``cluster.todo``."""
    if cluster.drain_at is not None and cluster.judging_time and now >= cluster.drain_at:
        wanted.end_service(cluster, cluster.ending, cluster.end_code)
    wanted.release_groups(cluster)
    asked.let_go(cluster)
    before = 0
    for _ in range(MAX_ROUNDS):
        before = len(cluster.todo)
        for worker in list(cluster.workers.values()):
            _age(cluster, worker, now)
        for group in cluster.groups.values():
            recycle.look(cluster, group, now)
            rollouts.steer(cluster, group, now)
            reconcile(cluster, group, now)
        for operation in cluster.running():
            if operation.kind == "reload":
                reload.watch(cluster, operation, now)
            elif operation.kind not in KINDS and operation.kind != "test":
                judge.judge(cluster, operation, now)
        if len(cluster.todo) == before:
            break
    else:
        cluster.unsettled = True
        again = "; ".join(str(action) for action in cluster.todo[before:])[:MAX_FAULT_LENGTH]
        cluster.todo.append(actions.Fault(f"a turn has not come to an end after {MAX_ROUNDS} rounds: {again}"))
    _close_unused(cluster, now)
    _end_when_empty(cluster, now)


def _age(cluster: StepContext, worker: Worker, now: float) -> None:
    """Do what is due for *worker* because of what it said, or because its time is over."""
    due = cluster.judging_time and worker.deadline is not None and now >= worker.deadline
    if worker.group not in cluster.groups:  # the notebook was lost, and with it the group
        stop(cluster, worker, BOOT_STOP, "shutdown", now)
    if worker.state == "starting" and worker.group in cluster.groups:
        by = readiness(worker, only_told=only_told(cluster, worker), ready_after=ready_after(cluster, worker), now=now)
        group = cluster.groups[worker.group]
        missing = ports.lacks_port(cluster, group, worker)
        if not group.spec.expect_port:
            missing = ""  # it may say that it is ready
        elif missing:
            by = None
        _look_where(cluster, worker, now, ready=by is not None)
        if by is not None and not worker.elsewhere:
            _ready(cluster, worker, by, now)
        elif due or _is_given_up(cluster, worker, now):
            late = f"was not ready within {worker.ready_timeout:g} s"
            worker.verdict = worker.elsewhere or (f"{late}: it {missing}" if missing else late)
            worker.elsewhere_by = None
            failures.fail(cluster, worker, now)
            stop(cluster, worker, min(BOOT_STOP, stop_timeout(cluster, worker)), "failure", now)
    elif worker.state in ("draining", "stopping") and due:
        worker.move("kill")
        worker.deadline = None
        cluster.todo.append(actions.Kill(worker.number))
        cluster.publish(events.WorkerKill(worker.group, worker.slot, worker.pid or 0, worker.stop_reason))
        judge.killed(cluster, worker, now)
    elif worker.state == "gone" and due:
        worker.left = 0
        failures.bury(cluster, worker, worker.output or [], now)


def _look_where(cluster: StepContext, worker: Worker, now: float, *, ready: bool) -> None:
    """See whether *worker*, once it is *ready*, listens where it should (``ports``)."""
    before = worker.elsewhere
    worker.elsewhere = ports.elsewhere(cluster, cluster.groups[worker.group], worker) if ready else ""
    if not worker.elsewhere:
        worker.elsewhere_by = None
    elif not before:
        if ports.predecessor_serves(cluster, worker):
            worker.elsewhere_by = now + ports.PORT_WAIT
        for operation in cluster.running():
            if operation.concerns(worker.group, worker.slot):
                judge.step(cluster, operation, f"{worker.name} (pid {worker.pid}) {worker.elsewhere}", now)


def _is_given_up(cluster: StepContext, worker: Worker, now: float) -> bool:
    return cluster.judging_time and worker.elsewhere_by is not None and now >= worker.elsewhere_by


def _ready(cluster: StepContext, worker: Worker, by: str, now: float) -> None:
    worker.move("ready")
    worker.ready_at, worker.deadline, worker.still = now, None, 0.0
    worker.elsewhere_by = None
    group = cluster.groups[worker.group]
    group.prove(worker)
    group.silent = group.silent or (by == "alive" and not group.ready_by)
    cluster.publish(events.WorkerReady(worker.group, worker.slot, worker.pid or 0, by, round(now - worker.since, 3)))
    slot = group.slots.get(worker.slot)
    if slot is not None:
        slot.ports = []  # from now on it is asked itself
    if slot is not None and slot.generation == worker.generation and slot.broken:
        slot.broken = False
        cluster.publish(events.SlotRecovered(worker.group, worker.slot))
    for operation in cluster.running():
        watched = group.rollout is not None and group.rollout.stage == "canary"  # that tells of it itself
        if operation.concerns(worker.group, worker.slot) and not watched:
            judge.step(cluster, operation, f"{worker.name} (pid {worker.pid}) is serving", now)


def _close_unused(cluster: StepContext, now: float) -> None:
    """Close the shared sockets that nobody uses any more, once every slot serves: until then somebody may."""
    if cluster.ending:
        return
    used = {address for worker in cluster.workers.values() if worker.state != "gone" for address in worker.addresses}
    for group in cluster.groups.values():
        used |= {bind for release in group.releases.values() for bind in release.binds}
    settled = all(_settled(cluster, group) for group in cluster.groups.values())
    for address, since in list(cluster.unused.items()):
        if address in used or not settled:
            cluster.unused[address] = None
        elif since is None:
            cluster.unused[address] = now
        elif now >= since + LINGER:
            del cluster.unused[address]
            cluster.todo.append(actions.CloseListener(address))
            cluster.publish(events.PortClosed(address))


def _settled(cluster: StepContext, group: Group) -> bool:
    if group.rollout is not None:
        return False  # the old release may be wanted again, with its ports
    workers = cluster.of_group(group.name)
    serving = {(worker.slot, worker.generation) for worker in workers if worker.serving}
    wanted = {(slot.number, slot.generation) for slot in group.slots.values()}
    return wanted <= serving and not any(worker.booting for worker in workers)


def _end_when_empty(cluster: StepContext, now: float) -> None:
    slots = [slot for group in cluster.groups.values() for slot in group.slots.values()]
    if cluster.spec.give_up == "all-broken" and not cluster.ending and slots and all(slot.broken for slot in slots):
        for operation in cluster.running():
            judge.finish(cluster, operation, "failed", "every slot is broken: the service gave up", now)
        wanted.end_service(cluster, "failure", GIVE_UP_CODE)
        for group in cluster.groups.values():
            reconcile(cluster, group, now)
    if cluster.ending and cluster.drain_at is None and not cluster.workers:
        cluster.ended = True
        cluster.todo.append(end(cluster))


def end(cluster: StepContext) -> actions.End:
    """Return the last action of a service."""
    return actions.End(cluster.end_code, now=cluster.ending == "exit")
