"""The rows that people and scripts see, made from the cluster's state. Pure; the public interface's names.

What only the machine can tell (memory, CPU, connections) is added by the master.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from . import ports

if TYPE_CHECKING:
    from .cluster_state import ClusterState
    from .group import Group
    from .operations import Operation
    from .slot import Slot
    from .worker import Worker

Json = dict[str, Any]


def workers(cluster: ClusterState, now: float) -> list[Json]:
    """One row a worker, and one for each slot that has none; by group and slot."""
    rows: list[Json] = []
    for group in cluster.groups.values():
        members = _by_slot(cluster, group)
        for number in sorted({*group.slots, *members}):
            of_slot = sorted(members.get(number, ()), key=lambda each: each.number)
            rows += [_worker_row(cluster, group, worker, now) for worker in of_slot]
            slot = group.slots.get(number)
            if slot is not None and not any(worker.staying for worker in of_slot):
                rows.append(_empty_row(group, slot, now))
    return rows


def _by_slot(cluster: ClusterState, group: Group) -> dict[int, list[Worker]]:
    found: dict[int, list[Worker]] = {}
    for worker in cluster.of_group(group.name):
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
        problem = ports.trouble(cluster, group, worker)
        row |= {"detail": problem} if problem else {}
        lacks = ports.lacks_port(cluster, group, worker) or ports.is_unheard(cluster, group, worker)
        row |= {"not_listening": True} if lacks else {}
    return row


def _empty_row(group: Group, slot: Slot, now: float) -> Json:
    row = _row(group, slot.number, slot.generation, "broken" if slot.broken else "waiting", slot.reason)
    if group.spec.depends_on and not group.released:
        row["waits_for"] = [name for name, _ in group.spec.depends_on]
    at = group.next_try(slot)
    row["next_try_s"] = None if at is None else round(max(0.0, at - now), 3)
    return row


def health(cluster: ClusterState) -> Json:
    """``status`` is ok when every slot serves what it should, down when none does, else degraded."""
    wanted = sum(len(group.slots) for group in cluster.groups.values())
    problems: list[Json] = []
    serving = 0
    for group in cluster.groups.values():
        members = _by_slot(cluster, group)
        for number, slot in sorted(group.slots.items()):
            of_slot = members.get(number, [])
            troubles = [ports.trouble(cluster, group, worker) for worker in of_slot if worker.serving]
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


def groups(cluster: ClusterState) -> Json:
    """The groups by name."""
    return {
        group.name: {
            "wanted": len(group.slots),
            "serving": sum(worker.serving for worker in cluster.of_group(group.name)),
            "generation": group.promoted,
            "target": group.releases[group.promoted].target,
            "cwd": group.releases[group.promoted].cwd,
        }
        for group in cluster.groups.values()
    }


def operation(cluster: ClusterState, done: Operation, now: float, wall_minus_monotonic: float) -> Json:
    """One operation. *wall_minus_monotonic*: seconds between the two clocks, to give times that people read."""

    def at(moment: float) -> str:
        return iso(moment + wall_minus_monotonic)

    return {
        "id": done.id, "command": done.command, "state": done.state, "reason": done.reason,
        "steps": [{"at": at(moment), "text": text} for moment, text in done.steps],
        "replaced": done.replaced, "of": len(done.slots), "started_at": at(done.at),
        "ended_at": None if done.ended_at is None else at(done.ended_at), "steps_dropped": done.steps_dropped,
        **_rollout(cluster, done, now),
    }  # fmt: skip


def _rollout(cluster: ClusterState, running: Operation, now: float) -> Json:
    """What more there is to say of an upgrade that is under way."""
    for group in cluster.groups.values():
        rollout = group.rollout
        if rollout is not None and rollout.operation == running.id:
            serving = [each for each in cluster.of_group(group.name) if each.serving and each.slot in group.slots]
            new = sum(each.generation == rollout.new for each in serving)
            left = None if rollout.due is None else round(max(0.0, rollout.due - now), 1)
            return {
                "stage": rollout.stage,
                "workers": {"old": len(serving) - new, "new": new},
                "monitor_left_s": left,
            }
    return {}


def iso(timestamp: float) -> str:
    """ISO 8601 in UTC with milliseconds. *timestamp*: seconds since the epoch."""
    return datetime.fromtimestamp(timestamp, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
