"""What a request is refused for because of what is under way. Each raises Rejected and changes nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .operations import MAX_RUNNING, Operation
from .requests import Rejected
from .stages import KINDS

if TYPE_CHECKING:
    from .cluster import Cluster

ROLLING = KINDS | {"start", "restart"}
"""Operations of which a group has one at a time."""


def when_ending(cluster: Cluster) -> None:
    """Raise Rejected while the service is on its way to its end."""
    if cluster.ending:
        raise Rejected("stopping", "the service is shutting down", "start it again when it has ended")


def when_no_more(cluster: Cluster) -> None:
    """Raise Rejected where no further operation may begin."""
    when_ending(cluster)
    if len(cluster.running()) >= MAX_RUNNING:
        raise Rejected(
            "busy",
            f"{MAX_RUNNING} operations are running, which is the most that may run at a time",
            "wait until some have ended (see: operations)",
        )


def while_rolling(cluster: Cluster, names: set[str]) -> None:
    """Raise Rejected while workers of one of the groups *names* are being replaced, or a group is being ended."""
    while_leaving(cluster, names)
    operation = rolling(cluster, names)
    if operation is not None:
        raise Rejected(
            "busy",
            f"operation {operation.id} ({operation.command}) is still running in this group",
            f"wait for it (operations {operation.id}) or end it (cancel {operation.id})",
        )


def while_leaving(cluster: Cluster, names: set[str]) -> None:
    """Raise Rejected while one of the groups *names* is being ended."""
    for name in sorted(names & cluster.groups.keys()):
        if cluster.groups[name].leaving:
            raise Rejected("busy", f"group {name!r} is being shut down", "wait until it has ended (see: operations)")


def rolling(cluster: Cluster, names: set[str]) -> Operation | None:
    """The operation by which workers of one of the groups *names* are being replaced, or started for the first time."""
    busy = (each for each in cluster.running() if each.groups & names and each.kind in ROLLING)
    return next(busy, None)
