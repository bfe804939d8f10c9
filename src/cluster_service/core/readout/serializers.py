"""JSON objects for users, made from the state of the cluster, with the names of the public interface.

The master adds what only the machine knows: memory, CPU, connections. ``status_line`` is for the service manager.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from cluster_service.core.rules import port_checks

if TYPE_CHECKING:
    from cluster_service.core.model.cluster_state import ClusterState, Operation
    from cluster_service.core.model.group import Group
    from cluster_service.core.model.worker import Slot, Worker

Json = dict[str, Any]


def worker_rows(cluster: ClusterState, now: float) -> list[Json]:
    """Return one row per worker, and one per slot without a worker, sorted by group and slot."""
    rows: list[Json] = []
    for group in cluster.groups.values():
        members = _workers_by_slot(cluster, group)
        for number in sorted({*group.slots, *members}):
            of_slot = sorted(members.get(number, ()), key=lambda each: each.number)
            rows += [_worker_row(cluster, group, worker, now) for worker in of_slot]
            slot = group.slots.get(number)
            if slot is not None and not any(worker.staying for worker in of_slot):
                rows.append(_empty_row(group, slot, now))
    return rows


def _workers_by_slot(cluster: ClusterState, group: Group) -> dict[int, list[Worker]]:
    found: dict[int, list[Worker]] = {}
    for worker in cluster.workers_of(group.name):
        found.setdefault(worker.slot, []).append(worker)
    return found


def _row(group: Group, number: int, generation: int, state: str, reason: str) -> Json:
    release = group.releases.get(generation, group.spec.release)
    slot = group.slots.get(number)
    return {
        "group": group.name, "slot": number, "pid": None, "state": state, "generation": generation, "reason": reason,
        "target": release.target, "cwd": release.cwd, "python": release.python or None, "uptime_s": None,
        "restarts": slot.restarts if slot else 0, "memory_bytes": None, "cpu_percent": None, "listening": [],
        "connections": None, "last_exit": slot.last_exit if slot else None,
    }  # fmt: skip


def _worker_row(cluster: ClusterState, group: Group, worker: Worker, now: float) -> Json:
    row = _row(group, worker.slot, worker.generation, worker.public_state, worker.reason)
    row.update(pid=worker.pid, uptime_s=round(now - worker.since, 3), listening=worker.addresses)
    if worker.status:
        row["status"] = worker.status
    if worker.serving:
        problem = port_checks.find_problem(cluster, group, worker)
        row |= {"detail": problem} if problem else {}
        missing = port_checks.find_missing_port(cluster, group, worker)
        silent = missing or port_checks.may_never_listen(cluster, group, worker)
        row |= {"not_listening": True} if silent else {}
    return row


def _empty_row(group: Group, slot: Slot, now: float) -> Json:
    row = _row(group, slot.number, slot.generation, "broken" if slot.broken else "waiting", slot.reason)
    if group.spec.depends_on and not group.released:
        row["waits_for"] = [name for name, _ in group.spec.depends_on]
    at = group.next_try(slot)
    row["next_try_s"] = None if at is None else round(max(0.0, at - now), 3)
    return row


def health_summary(cluster: ClusterState) -> Json:
    """Return the health of the service. ``status``: ok if every slot serves, down if none does, else degraded."""
    wanted = sum(len(group.slots) for group in cluster.groups.values())
    problems: list[Json] = []
    serving = 0
    for group in cluster.groups.values():
        members = _workers_by_slot(cluster, group)
        for number, slot in sorted(group.slots.items()):
            of_slot = members.get(number, [])
            troubles = [port_checks.find_problem(cluster, group, worker) for worker in of_slot if worker.serving]
            if "" in troubles:
                serving += 1
                continue
            staying = [worker.public_state for worker in of_slot if worker.staying]
            state = "serving" if troubles else staying[0] if staying else "broken" if slot.broken else "waiting"
            problem: Json = {"group": group.name, "slot": number, "state": state}
            if troubles:
                problem["detail"] = troubles[-1]
            elif slot.last_exit is not None:
                problem |= {"detail": slot.last_exit["detail"], "output": slot.last_exit["output"]}
            problems.append(problem)
    status = "ok" if serving == wanted and not cluster.ending else "degraded" if serving else "down"
    return {"status": status, "serving": serving, "wanted": wanted, "problems": problems}


def group_summaries(cluster: ClusterState) -> Json:
    """Return a summary of each group, by name."""
    return {
        group.name: {
            "wanted": len(group.slots),
            "serving": sum(worker.serving for worker in cluster.workers_of(group.name)),
            "generation": group.promoted,
            "target": group.releases[group.promoted].target,
            "cwd": group.releases[group.promoted].cwd,
        }
        for group in cluster.groups.values()
    }


def operation_row(cluster: ClusterState, done: Operation, now: float, wall_minus_monotonic: float) -> Json:
    """Return one operation. *wall_minus_monotonic*: seconds between the two clocks, for wall-clock times."""

    def at(moment: float) -> str:
        return iso_timestamp(moment + wall_minus_monotonic)

    return {
        "id": done.id, "command": done.command, "state": done.state, "reason": done.reason,
        "steps": [{"at": at(moment), "text": text} for moment, text in done.steps],
        "replaced": done.replaced, "of": len(done.slots), "started_at": at(done.at),
        "ended_at": None if done.ended_at is None else at(done.ended_at), "steps_dropped": done.steps_dropped,
        **_upgrade_fields(cluster, done, now),
    }  # fmt: skip


def _upgrade_fields(cluster: ClusterState, running: Operation, now: float) -> Json:
    """Return the additional fields of a running upgrade; none for other operations."""
    for group in cluster.groups.values():
        rollout = group.rollout
        if rollout is not None and rollout.operation == running.id:
            serving = [each for each in cluster.workers_of(group.name) if each.serving and each.slot in group.slots]
            new = sum(each.generation == rollout.new for each in serving)
            left = None if rollout.due is None else round(max(0.0, rollout.due - now), 1)
            return {
                "stage": rollout.stage,
                "workers": {"old": len(serving) - new, "new": new},
                "monitor_left_s": left,
            }
    return {}


def iso_timestamp(timestamp: float) -> str:
    """Return *timestamp* (seconds since the epoch) as ISO 8601 in UTC with milliseconds."""
    return datetime.fromtimestamp(timestamp, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


FIRST_COMMAND = "start"
"""The command of the first operation of a service. Its id is not always 1, because of ``--state``."""


def status_line(cluster: ClusterState) -> tuple[str, str]:
    """Return the phase and the text of ``wire.orders.Status``: the state of the service in a word and in a line."""
    alive = [worker for worker in cluster.workers.values() if worker.state != "gone"]
    if cluster.ending:
        waits = "readiness fails; " if cluster.drain_at is not None else ""
        return "stopping", f"{waits}{len(alive)} workers left"
    there = [worker for worker in alive if worker.serving and worker.group in cluster.groups]
    troubles = [(worker, port_checks.find_problem(cluster, cluster.groups[worker.group], worker)) for worker in there]
    serving = {(worker.group, worker.slot) for worker, why in troubles if not why}
    slots = [(group.name, slot) for group in cluster.groups.values() for slot in group.slots.values()]
    missing = [(name, slot) for name, slot in slots if (name, slot.number) not in serving]
    parts = [f"{len(slots) - len(missing)} of {len(slots)} serving"]
    parts += [f"{name}.{slot.number} is broken" for name, slot in missing if slot.broken][:1]
    parts += [f"{worker.name}: {why}" for worker, why in troubles if why][:1]
    running = cluster.running_operations()
    parts += [_describe_running(cluster, each) for each in running if each.command != FIRST_COMMAND][-1:]
    return _phase(cluster, running, {name for name, _ in serving}, complete=not missing), "; ".join(parts)


def _phase(cluster: ClusterState, running: list[Operation], served: set[str], *, complete: bool) -> str:
    if any(each.kind == "reload" for each in running):
        return "reloading"
    if complete:
        return "serving"
    if any(each.command == FIRST_COMMAND for each in running):
        return "starting"
    return "serving" if all(name in served for name, group in cluster.groups.items() if group.slots) else "stalled"


def _describe_running(cluster: ClusterState, operation: Operation) -> str:
    for group in cluster.groups.values():
        if group.rollout is not None and group.rollout.operation == operation.id:
            return f"{operation.kind} {operation.id}: {group.rollout.stage}"
    of = f" {operation.replaced}/{len(operation.slots)}" if operation.slots else ""
    return f"{operation.kind} {operation.id}{':' if of else ''}{of}"
