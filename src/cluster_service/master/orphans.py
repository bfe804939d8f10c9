"""What the master does when the guardian has died: end the workers gracefully, so that no orphan keeps the port.

Each worker was sent SIGTERM by the kernel already (its parent-death signal); its own children were not. They are no
children of ours, so they are watched by pidfd, and what is left after its time is killed.
"""

from __future__ import annotations

import os
import select
import signal
import time
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cluster_service.core.cluster import Cluster

UNKNOWN = 15.0
"""Seconds for a worker whose group is gone to end."""


def left_by(cluster: Cluster) -> dict[int, float]:
    """The process groups of the workers that live: pid of the leader → seconds until it is to be killed."""
    timeouts = {}
    for worker in cluster.workers.values():
        group = cluster.groups.get(worker.group)
        if worker.pid is not None and worker.state != "gone":
            timeouts[worker.pid] = group.spec.stop_timeout if group else UNKNOWN
    return timeouts


def end(groups: Mapping[int, float]) -> None:
    """End every process group. *groups*: the pid of its leader → seconds until it is killed."""
    begun = time.monotonic()
    left = {pgid: begun + timeout for pgid, timeout in groups.items() if _signal(pgid, signal.SIGTERM)}
    while True:
        alive = {pgid: members(pgid) for pgid in left}
        left = {pgid: deadline for pgid, deadline in left.items() if alive[pgid]}
        if not left:
            return
        for pgid, deadline in left.items():
            if time.monotonic() >= deadline:
                _signal(pgid, signal.SIGKILL)
        _wait([pid for pgid in left for pid in alive[pgid]], min(left.values()) - time.monotonic())


def members(pgid: int) -> list[int]:
    """The live processes of a process group (zombies, which only their parent can remove, are not)."""
    found = []
    for name in os.listdir("/proc"):
        if not name.isdecimal():
            continue
        with suppress(OSError), open(f"/proc/{name}/stat", encoding="utf-8", errors="replace") as stat:
            state, _parent, group = stat.read().rpartition(")")[2].split()[:3]
            if int(group) == pgid and state not in "ZX":
                found.append(int(name))
    return found


def _signal(pgid: int, number: int) -> bool:
    try:
        os.killpg(pgid, number)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _wait(pids: list[int], timeout: float) -> None:
    """Wait until one of *pids* ends, for *timeout* seconds at most (and a tenth at least, once that is over)."""
    poller = select.poll()
    pidfds = []
    for pid in pids:
        with suppress(OSError):
            pidfds.append(os.pidfd_open(pid))
            poller.register(pidfds[-1], select.POLLIN)
    if len(pidfds) < len(pids):  # one has ended meanwhile
        timeout = 0.0
    poller.poll(max(100.0, timeout * 1000))
    for pidfd in pidfds:
        os.close(pidfd)
