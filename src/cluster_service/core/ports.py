"""Whether a new worker listens where it should: where its predecessor did, or where all the others of its group do.

A program that looks whether its port answers, and takes the next one if it does, would otherwise move the service to
another port at its first replacement: its predecessor answers as long as there is one, and the service's own socket
after that. Nothing is concluded from a worker that listens nowhere (it may do so later), that adds a port, or that
lacks one which its predecessor opened besides others (it may have been opened on demand, or at random).

Compared are kinds and numbers of ports. Hosts are not, nor the paths of Unix sockets, which may hold a pid.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .cluster_state import ClusterState
    from .group import Group
    from .spec import Release
    from .stages import Rollout
    from .worker import Worker

PORT_WAIT = 5.0
"""Seconds that a successor which is ready has to listen where its predecessor does, while that one serves on."""


def elsewhere(cluster: ClusterState, group: Group, worker: Worker) -> str:
    """Return where *worker*, which is ready, listens instead of where it should, in words; empty when it does not."""
    own = _ports(worker.addresses)
    if not own or worker.slot not in group.slots or _may_change(group, worker):
        return ""
    there = [each for each in cluster.of_group(group.name) if each.serving and each is not worker]
    before = _predecessor(group, worker, there)
    others = [each.addresses for each in there if each.slot != worker.slot and _is_comparable(group, worker, each)]
    listens = f"listens on {', '.join(worker.addresses)}"
    if _ports(before) and not own & _ports(before):
        return f"{listens}; its predecessor listened on {', '.join(before)}"
    known = [_ports(each) for each in ([*others, before] if before else others)]
    common = set.intersection(*known) if len(known) > 1 else set()
    if common - own and own - set().union(*known):
        missing = [address for address in others[0] if _ports([address]) & (common - own)]
        return f"{listens}; the other workers of {group.name} listen on {', '.join(missing)}"
    return ""


def predecessor_serves(cluster: ClusterState, worker: Worker) -> bool:
    """Whether another worker serves in the slot of *worker*."""
    there = cluster.of_group(worker.group)
    return any(each.serving and each.slot == worker.slot and each is not worker for each in there)


def expects_port(cluster: ClusterState, group: Group, worker: Worker) -> bool:
    """Whether *worker* should listen: its group says so, or has an address to bind, or a worker of its slot has.

    An address to bind counts only where the guardian learns of every socket (``seccomp``).
    """
    if group.spec.expect_port is not None:
        return group.spec.expect_port is not False
    slot, release = group.slots.get(worker.slot), group.releases.get(worker.generation)
    if slot is None or release is None:
        return False
    seen = _are_seen(cluster, release)
    return bool(release.binds and seen) or (slot.listened and not _may_change(group, worker))


def lacks_port(cluster: ClusterState, group: Group, worker: Worker) -> str:
    """Return what port *worker* should listen on and does not, in words; empty when it does, or need not."""
    if not expects_port(cluster, group, worker):
        return ""
    port = group.spec.expect_port
    numbered = isinstance(port, int) and not isinstance(port, bool) and worker.slot in group.slots
    if not numbered:
        return "" if worker.addresses else "does not listen on any port"
    return "" if str(port) in {number for _, number in _ports(worker.addresses)} else f"does not listen on port {port}"


def is_unheard(cluster: ClusterState, group: Group, worker: Worker) -> bool:
    """Whether *worker* listens nowhere and no worker of its group ever did: it may never, or it listens later.

    Known only where the guardian learns of every socket. ``expect_port = false`` says that it never does.
    """
    release = group.releases.get(worker.generation)
    if release is None or group.spec.expect_port is not None or worker.addresses or not group.silent:
        return False
    return _are_seen(cluster, release)


def _are_seen(cluster: ClusterState, release: Release) -> bool:
    """Whether the guardian learns of every socket that workers of *release* bind."""
    return release.share == "seccomp" or (release.share == "auto" and cluster.sees_ports)


def trouble(cluster: ClusterState, group: Group, worker: Worker) -> str:
    """Return why clients cannot reach *worker*, which serves, in words; empty when they can."""
    return _refusal(cluster, worker) or lacks_port(cluster, group, worker)


def refused(cluster: ClusterState, group: Group) -> str:
    """Say which port of *group* does not accept connections; empty when all do."""
    return next(filter(None, (_refusal(cluster, each) for each in cluster.of_group(group.name) if each.serving)), "")


def _refusal(cluster: ClusterState, worker: Worker) -> str:
    for address in worker.addresses:
        if address in cluster.refusing:
            return f"{address} does not accept connections: {cluster.refusing[address]}"
    return ""


def waits_for(cluster: ClusterState, group: Group) -> list[str]:
    """The groups that *group* depends on and that are not there yet: a worker that no client reaches is not."""

    def reachable(worker: Worker) -> bool:
        return not trouble(cluster, cluster.groups[worker.group], worker)

    return group.waits_for(cluster.groups, cluster.workers.values(), reachable)


def has_listened(cluster: ClusterState, worker: Worker) -> None:
    """*worker* listens: so should those that come after it in its slot."""
    group = cluster.groups.get(worker.group)
    if group is not None and worker.slot in group.slots:
        group.slots[worker.slot].listened = True


def remember(cluster: ClusterState, worker: Worker) -> None:
    """*worker*, which served, has ended: unless its successor serves by now, that one should listen where it did."""
    group = cluster.groups.get(worker.group)
    slot = group.slots.get(worker.slot) if group is not None else None
    if slot is not None and worker.ready_at is not None and not predecessor_serves(cluster, worker):
        slot.ports = list(worker.addresses)


def missing_ports(cluster: ClusterState, group: Group, rollout: Rollout, canary: Worker) -> str:
    """The addresses on which every worker of the old release listens, and the canary does not; for a sentence."""
    old = [each for each in cluster.of_group(group.name) if each.serving and each.generation != rollout.new]
    common = set.intersection(*(set(each.addresses) for each in old)) if old else set()
    return ", ".join(sorted(common - set(canary.addresses)))


def _may_change(group: Group, worker: Worker) -> bool:
    """Whether no port is expected of *worker*: an operator said so, a canary is judged by its stage, or a release that
    is bad is left.
    """
    rollout = group.rollout
    if group.spec.allow_port_change or group.slots[worker.slot].hold:
        return True
    return rollout is not None and (rollout.undoing or (worker.generation == rollout.new and rollout.allow_port_change))


def _is_comparable(group: Group, worker: Worker, other: Worker) -> bool:
    """Whether *other* runs the same release, as far as one is on trial."""
    new = group.rollout.new if group.rollout is not None else None
    return (worker.generation == new) == (other.generation == new)


def _predecessor(group: Group, worker: Worker, serving: Iterable[Worker]) -> list[str]:
    """The addresses of the worker that serves in the same slot, or was the last to."""
    there = [each for each in serving if each.slot == worker.slot]
    return max(there, key=lambda each: each.number).addresses if there else group.slots[worker.slot].ports


def _ports(addresses: Iterable[str]) -> set[tuple[str, str]]:
    """Kind and number of the ports of *addresses*; Unix sockets have none."""
    found = set()
    for address in addresses:
        if not address.startswith("unix:"):
            kind = "udp" if address.startswith("udp:") else "tcp"
            found.add((kind, address.removesuffix("+v4").rpartition(":")[2]))
    return found
