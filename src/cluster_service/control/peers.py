"""Detection of workers among the peers of the Unix endpoint.

To the kernel the owner and a worker are the same user. But every process that a worker starts remains a descendant of
the guardian (a subreaper) and runs in a process group other than the guardian's; the master is the only descendant
that may send commands. The check prevents a worker's code from sending commands inadvertently. It is not a security
boundary: a process of the same user can circumvent it (see docs/security.md), so untrusted workers need their own user.
"""

from __future__ import annotations

import re

_STAT = re.compile(rb".*\) \S+ (\d+) (\d+) ", re.DOTALL)
DEEPEST = 64
"""Maximum number of ancestors examined."""


def is_worker(pid: int, guardian: int, master: int) -> bool:
    """Return True if process *pid* is a worker or a descendant of one, or if it exits before this is known.

    *guardian*: pid of the guardian; 0: there is none, and so no worker.
    """
    own = _parent_and_group(guardian)
    if own is None:
        return False
    for _ in range(DEEPEST):
        if pid in (master, guardian) or pid <= 1:  # 0: in another pid namespace, and therefore not ours
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
