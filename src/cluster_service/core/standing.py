"""How the service is as a whole, in one word and one line: for a service manager, which asks no more. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import ports

if TYPE_CHECKING:
    from .cluster_state import ClusterState
    from .operations import Operation

FIRST = "start"
"""The command of the operation that a service begins with; its number is not always 1 (``--state``)."""


def standing(cluster: ClusterState) -> tuple[str, str]:
    """Return the phase and the text of ``wire.orders.Status``."""
    alive = [worker for worker in cluster.workers.values() if worker.state != "gone"]
    if cluster.ending:
        waits = "not ready any more; " if cluster.drain_at is not None else ""
        return "stopping", f"{waits}{len(alive)} workers left"
    there = [worker for worker in alive if worker.serving and worker.group in cluster.groups]
    troubles = [(worker, ports.trouble(cluster, cluster.groups[worker.group], worker)) for worker in there]
    serving = {(worker.group, worker.slot) for worker, why in troubles if not why}
    slots = [(group.name, slot) for group in cluster.groups.values() for slot in group.slots.values()]
    missing = [(name, slot) for name, slot in slots if (name, slot.number) not in serving]
    parts = [f"{len(slots) - len(missing)} of {len(slots)} serving"]
    parts += [f"{name}.{slot.number} is broken" for name, slot in missing if slot.broken][:1]
    parts += [f"{worker.name}: {why}" for worker, why in troubles if why][:1]
    running = cluster.running()
    parts += [_under_way(cluster, each) for each in running if each.command != FIRST][-1:]
    return _phase(cluster, running, {name for name, _ in serving}, complete=not missing), "; ".join(parts)


def _phase(cluster: ClusterState, running: list[Operation], served: set[str], *, complete: bool) -> str:
    if any(each.kind == "reload" for each in running):
        return "reloading"
    if complete:
        return "serving"
    if any(each.command == FIRST for each in running):
        return "starting"
    return "serving" if all(name in served for name, group in cluster.groups.items() if group.slots) else "stalled"


def _under_way(cluster: ClusterState, operation: Operation) -> str:
    for group in cluster.groups.values():
        if group.rollout is not None and group.rollout.operation == operation.id:
            return f"{operation.kind} {operation.id}: {group.rollout.stage}"
    of = f" {operation.replaced}/{len(operation.slots)}" if operation.slots else ""
    return f"{operation.kind} {operation.id}{':' if of else ''}{of}"
