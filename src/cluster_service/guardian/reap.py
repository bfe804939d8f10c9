"""Reaping of child processes, and signals to process groups.

The guardian is a subreaper (or process 1), so every process that a worker leaves behind becomes its child: every child
is reaped, exactly once, known or not. The number of a process group stays in use while it has a member, so a group can
be signalled after its leader has ended; but once it is empty the number may be reused, so it is checked before it is
signalled.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from cluster_service.wire.signals import signal_name

if TYPE_CHECKING:
    from collections.abc import Collection, Container, Iterator, Mapping


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


class Process(NamedTuple):
    """The content of /proc/PID/stat. *start*: in clock ticks since boot."""

    parent: int
    group: int
    start: int
    zombie: bool
    state: bytes = b"S"
    """The state letter of proc_pid_stat(5)."""


def look(pid: int) -> Process | None:
    """Return the state of *pid*, or None. Never blocks: reading stat does not access the process's memory."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The name, in parentheses, may contain anything; fields are unambiguous after the last parenthesis.
            fields = file.read().rpartition(b")")[2].split()
        # The first thread may have ended while others continue: the process lives until the last thread ends.
        zombie = fields[0] in (b"Z", b"X") and int(fields[17]) <= 1
        return Process(int(fields[1]), int(fields[2]), int(fields[19]), zombie, fields[0])
    except (OSError, ValueError, IndexError):
        return None


_MARK = b"Max file locks "


def mark_of(pid: int) -> int:
    """Return the mark that *pid* has inherited (``limits.RLIMIT_LOCKS``); 0: none."""
    try:
        with open(f"/proc/{pid}/limits", "rb") as file:
            for line in file:
                if line.startswith(_MARK):
                    value = line[len(_MARK) :].split()[0]
                    return int(value) if value.isdigit() else 0
    except (OSError, IndexError):
        pass
    return 0


def processes() -> dict[int, Process]:
    """Return all processes of the machine that this one may see, by pid."""
    found = ((int(entry), look(int(entry))) for entry in os.listdir("/proc") if entry.isdigit())
    return {pid: process for pid, process in found if process is not None}


def below(roots: Collection[int], known: Mapping[int, Process]) -> set[int]:
    """Return the descendants of *roots* among the processes *known*."""
    offspring: dict[int, list[int]] = {}
    for pid, process in known.items():
        offspring.setdefault(process.parent, []).append(pid)
    found: set[int] = set()
    todo = list(roots)
    while todo:
        for pid in offspring.get(todo.pop(), ()):
            if pid not in found:
                found.add(pid)
                todo.append(pid)
    return found


def living_groups() -> set[int]:
    """Return the process groups with a live member that descends from this process. Scans /proc once."""
    known = processes()
    return {known[pid].group for pid in below([os.getpid()], known) if not known[pid].zombie}


def signal_group(
    group: int,
    number: int,
    *,
    leader_lives: bool,
    others: Container[int] = (),
) -> bool:
    """Send *number* to every member of *group*. Return False if this number is no group of ours.

    *leader_lives*: its first process has not been reaped, so the number cannot have been reused. *others*: pids of live
    workers, one of which may have got the number since.
    """
    if not leader_lives:
        if group in others or not _exists(group):  # most groups are empty by then, and /proc need not be scanned
            return False
        if group not in living_groups():
            return False
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return leader_lives and _signal_leader(group, number)
    return True


def _signal_leader(pid: int, number: int) -> bool:
    """Signal a process that was just forked and has no process group of its own yet."""
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _exists(group: int) -> bool:
    """Return whether any process is in *group*, ours or not."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def children() -> set[int]:
    """Return the pids of all children of this process, which has a single thread."""
    own = os.getpid()
    try:
        with open(f"/proc/{own}/task/{own}/children", encoding="ascii") as file:
            return {int(pid) for pid in file.read().split()}
    except FileNotFoundError:  # a kernel without CONFIG_PROC_CHILDREN
        return {pid for pid, process in processes().items() if process.parent == own}
