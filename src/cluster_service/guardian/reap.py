"""The ends of processes, and what is left of their groups.

The guardian is a subreaper (or process 1), so whatever a worker leaves behind becomes its child: every child is
reaped, exactly once, known or not. The number of a process group stays taken while one member lives, so a group can
be ended after its leader; but once it is empty the number may become another's, and so it is looked up before it is
signalled.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from cluster_service.wire.signals import signal_name

if TYPE_CHECKING:
    from collections.abc import Container, Iterator


class End(NamedTuple):
    """How a process ended: exactly one of the two is set."""

    code: int | None
    signal: int | None

    @property
    def failed(self) -> bool:
        """Whether it ended in any other way than with exit code 0."""
        return self.code != 0

    def __str__(self) -> str:
        if self.signal is None:
            return f"exited with code {self.code}"
        return f"was killed by {signal_name(self.signal)}"


def ended() -> Iterator[tuple[int, End]]:
    """Reap and yield every child that has ended."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        code = os.waitstatus_to_exitcode(status)
        yield pid, End(code, None) if code >= 0 else End(None, -code)


class _Process(NamedTuple):
    parent: int
    group: int
    zombie: bool


def _look(pid: int) -> _Process | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The name, in parentheses, may contain anything: what follows the last one is plain.
            state, parent, group, *_ = file.read().rpartition(b")")[2].split()
    except (OSError, ValueError):
        return None
    return _Process(int(parent), int(group), zombie=state in (b"Z", b"X"))


def _descends(pid: int, ancestor: int) -> bool:
    while pid > 1:
        process = _look(pid)
        if process is None:
            return False
        if process.parent == ancestor:
            return True
        pid = process.parent
    return False


def members(group: int) -> Iterator[int]:
    """Yield the pids of the living members of *group* that descend from this process."""
    guardian = os.getpid()
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            process = _look(int(entry))
            living = process is not None and process.group == group and not process.zombie
            if living and _descends(int(entry), guardian):
                yield int(entry)


def signal_group(group: int, number: int, *, leader_lives: bool, others: Container[int] = ()) -> bool:
    """Send *number* to every member of *group*. False when there is no group of ours of this number.

    *leader_lives*: its first process has not been reaped, so the number cannot be another's. *others*: pids of living
    workers, one of which may have been given the number since.
    """
    if not leader_lives and (group in others or next(members(group), None) is None):
        return False
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def children() -> set[int]:
    """Return the pids of all children of this process, which has one thread."""
    own = os.getpid()
    try:
        with open(f"/proc/{own}/task/{own}/children", encoding="ascii") as file:
            return {int(pid) for pid in file.read().split()}
    except FileNotFoundError:  # a kernel without CONFIG_PROC_CHILDREN
        processes = ((int(entry), _look(int(entry))) for entry in os.listdir("/proc") if entry.isdigit())
        return {pid for pid, process in processes if process is not None and process.parent == own}
