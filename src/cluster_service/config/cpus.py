"""Number of usable CPUs: the affinity of this process and the quotas of its cgroups (v1 and v2)."""

from __future__ import annotations

import os
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")


def usable(cgroups: Path = CGROUPS, own: Path = OWN) -> int:
    """Return the number of whole CPUs that this process may use, at least 1. A quota of 2.5 CPUs counts as 2."""
    allowed = len(os.sched_getaffinity(0))
    return max(1, min([allowed, *(int(quota) for quota in quotas(cgroups, own))]))


def quotas(cgroups: Path = CGROUPS, own: Path = OWN) -> list[float]:
    """Return every CPU quota that applies to this process, in CPUs."""
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            found += [_v2(place) for place in _upwards(cgroups, path)]
        elif "cpu" in controllers.split(","):
            found += [_v1(place) for mount in ("cpu", "cpu,cpuacct") for place in _upwards(cgroups / mount, path)]
    return [quota for quota in found if quota is not None]


def _upwards(root: Path, path: str) -> list[Path]:
    """Return the directory of the cgroup and its ancestors; in a container the path may exist only on the host."""
    here = root / path.lstrip("/")
    return [here, *(parent for parent in here.parents if parent == root or root in parent.parents)]


def _v2(place: Path) -> float | None:
    try:
        quota, period = (place / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None


def _v1(place: Path) -> float | None:
    try:
        quota = int((place / "cpu.cfs_quota_us").read_text())
        period = int((place / "cpu.cfs_period_us").read_text())
        return None if quota <= 0 else quota / period
    except (OSError, ValueError, ZeroDivisionError):
        return None
