"""Who has connected to the owner's door: the owner, or a worker of the service itself?

Both are the same user to the kernel. But whatever a worker starts stays a descendant of the guardian, which collects
its orphans, and lives in another process group than the guardian's own; the master is the one descendant that may
command. This keeps a worker's code from commanding its service in passing. It is no wall: who runs as the same user can
find a way round (see docs/security.md), so that workers that are not trusted need a user of their own.
"""

from __future__ import annotations

import re

_STAT = re.compile(rb".*\) \S+ (\d+) (\d+) ", re.DOTALL)
DEEPEST = 64
"""Ancestors that are looked at."""


def is_worker(pid: int, guardian: int, master: int) -> bool:
    """Whether process *pid* is a worker, or was started by one; also when it is gone before that can be told.

    *guardian*: 0 when there is none, and so no worker.
    """
    own = _parent_and_group(guardian)
    if own is None:
        return False
    for _ in range(DEEPEST):
        if pid in (master, guardian) or pid <= 1:  # 0: of another pid namespace, and so none of ours
            return False
        found = _parent_and_group(pid)
        if found is None:
            return True
        parent, group = found
        if parent == guardian:
            return group != own[1]
        pid = parent
    return True


def _parent_and_group(pid: int) -> tuple[int, int] | None:
    if pid <= 0:
        return None
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            match = _STAT.match(file.read())
    except OSError:
        return None
    return (int(match[1]), int(match[2])) if match else None
