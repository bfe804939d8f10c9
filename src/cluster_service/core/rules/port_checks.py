"""Checks of the ports of a worker: does it listen where its predecessor, or the rest of its group, does?

A program that probes its port and takes the next one if it is in use would otherwise move the service to another port
at its first replacement, because its predecessor or the shared socket accepts the probe. A worker is not rejected if it
does not listen (it may do so later), if it opens an additional port, or if it lacks one of several ports of its
predecessor (that one may have been opened on demand, or with a random number).

Only the kind and number of ports are compared; hosts may differ, and paths of Unix sockets may contain a pid.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cluster_service.core.model.cluster_state import ClusterState
    from cluster_service.core.model.group import Group
    from cluster_service.core.model.spec import Release
    from cluster_service.core.model.upgrade_state import Rollout
    from cluster_service.core.model.worker import Worker

PORT_WAIT = 5.0
"""Seconds that a ready successor has to listen on its predecessor's ports while that one serves."""


def find_port_change(cluster: ClusterState, group: Group, worker: Worker) -> str:
    """Return how the ports of *worker*, which is ready, differ from the expected ones, in words; empty: they do not."""
    own = _port_numbers(worker.addresses)
    if not own or worker.slot not in group.slots or _may_change(group, worker):
        return ""
    there = [each for each in cluster.workers_of(group.name) if each.serving and each is not worker]
    before = _predecessor_addresses(group, worker, there)
    others = [each.addresses for each in there if each.slot != worker.slot and _is_comparable(group, worker, each)]
    listens = f"listens on {', '.join(worker.addresses)}"
    if _port_numbers(before) and not own & _port_numbers(before):
        return f"{listens}; its predecessor listened on {', '.join(before)}"
    known = [_port_numbers(each) for each in ([*others, before] if before else others)]
    common = set.intersection(*known) if len(known) > 1 else set()
    if common - own and own - set().union(*known):
        missing = [address for address in others[0] if _port_numbers([address]) & (common - own)]
        return f"{listens}; the other workers of {group.name} listen on {', '.join(missing)}"
    return ""


def predecessor_serves(cluster: ClusterState, worker: Worker) -> bool:
    """Return whether another worker serves in the slot of *worker*."""
    there = cluster.workers_of(worker.group)
    return any(each.serving and each.slot == worker.slot and each is not worker for each in there)


def expects_port(cluster: ClusterState, group: Group, worker: Worker) -> bool:
    """Return whether *worker* should listen: configured, or it has an address to bind, or a predecessor listened.

    An address to bind counts only if the guardian sees every socket (``seccomp``).
    """
    if group.spec.expect_port is not None:
        return group.spec.expect_port is not False
    slot, release = group.slots.get(worker.slot), group.releases.get(worker.generation)
    if slot is None or release is None:
        return False
    if release.binds and _sees_all_ports(cluster, release):
        return True
    return slot.listened and not _may_change(group, worker)


def find_missing_port(cluster: ClusterState, group: Group, worker: Worker) -> str:
    """Return which expected port *worker* does not listen on, in words; empty: none is missing."""
    if not expects_port(cluster, group, worker):
        return ""
    port = group.spec.expect_port
    numbered = isinstance(port, int) and not isinstance(port, bool) and worker.slot in group.slots
    if not numbered:
        return "" if worker.addresses else "does not listen on any port"
    return (
        ""
        if str(port) in {number for _, number in _port_numbers(worker.addresses)}
        else f"does not listen on port {port}"
    )


def may_never_listen(cluster: ClusterState, group: Group, worker: Worker) -> bool:
    """Return whether *worker* does not listen and no worker of its group ever did: it may listen later, or never.

    Known only if the guardian sees every socket. With ``expect_port = false`` this is no problem.
    """
    release = group.releases.get(worker.generation)
    if release is None or group.spec.expect_port is not None or worker.addresses or not group.silent:
        return False
    return _sees_all_ports(cluster, release)


def _sees_all_ports(cluster: ClusterState, release: Release) -> bool:
    """Return whether the guardian sees every socket that workers of *release* bind."""
    return release.share == "seccomp" or (release.share == "auto" and cluster.sees_ports)


def find_problem(cluster: ClusterState, group: Group, worker: Worker) -> str:
    """Return why clients cannot reach *worker*, which serves, in words; empty: they can."""
    return _find_refusal(cluster, worker) or find_missing_port(cluster, group, worker)


def find_refusing_port(cluster: ClusterState, group: Group) -> str:
    """Return which port of *group* does not accept connections, in words; empty: all do."""
    return next(
        filter(None, (_find_refusal(cluster, each) for each in cluster.workers_of(group.name) if each.serving)), ""
    )


def _find_refusal(cluster: ClusterState, worker: Worker) -> str:
    for address in worker.addresses:
        if address in cluster.refusing:
            return f"{address} does not accept connections: {cluster.refusing[address]}"
    return ""


def missing_dependencies(cluster: ClusterState, group: Group) -> list[str]:
    """Return the dependencies of *group* that are not available: a worker that no client reaches does not count."""

    def reachable(worker: Worker) -> bool:
        return not find_problem(cluster, cluster.groups[worker.group], worker)

    return group.waits_for(cluster.groups, cluster.workers.values(), reachable)


def record_listening(cluster: ClusterState, worker: Worker) -> None:
    """Record that *worker* listens, so that its successors are expected to listen too."""
    group = cluster.groups.get(worker.group)
    if group is not None and worker.slot in group.slots:
        group.slots[worker.slot].listened = True


def remember_ports(cluster: ClusterState, worker: Worker) -> None:
    """Keep the ports of *worker*, which has exited, for the check of its successor, unless that serves already."""
    group = cluster.groups.get(worker.group)
    slot = group.slots.get(worker.slot) if group is not None else None
    if slot is not None and worker.ready_at is not None and not predecessor_serves(cluster, worker):
        slot.ports = list(worker.addresses)


def list_missing_ports(cluster: ClusterState, group: Group, rollout: Rollout, canary: Worker) -> str:
    """Return the addresses on which every worker of the old release listens and the canary does not, joined."""
    old = [each for each in cluster.workers_of(group.name) if each.serving and each.generation != rollout.new]
    common = set.intersection(*(set(each.addresses) for each in old)) if old else set()
    return ", ".join(sorted(common - set(canary.addresses)))


def _may_change(group: Group, worker: Worker) -> bool:
    """Return whether *worker* may listen on other ports: configured, a canary (its stage checks it), or an undo."""
    rollout = group.rollout
    if group.spec.allow_port_change or group.slots[worker.slot].hold:
        return True
    return rollout is not None and (rollout.undoing or (worker.generation == rollout.new and rollout.allow_port_change))


def _is_comparable(group: Group, worker: Worker, other: Worker) -> bool:
    """Return whether *other* is on the same side of a running upgrade as *worker*."""
    new = group.rollout.new if group.rollout is not None else None
    return (worker.generation == new) == (other.generation == new)


def _predecessor_addresses(group: Group, worker: Worker, serving: Iterable[Worker]) -> list[str]:
    """Return the addresses of the worker that serves, or last served, in the same slot."""
    there = [each for each in serving if each.slot == worker.slot]
    return max(there, key=lambda each: each.number).addresses if there else group.slots[worker.slot].ports


def _port_numbers(addresses: Iterable[str]) -> set[tuple[str, str]]:
    """Return kind and number of the ports of *addresses*; Unix sockets have none."""
    found = set()
    for address in addresses:
        if not address.startswith("unix:"):
            kind = "udp" if address.startswith("udp:") else "tcp"
            found.add((kind, address.removesuffix("+v4").rpartition(":")[2]))
    return found
