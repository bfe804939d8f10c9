"""Verification that a process belongs to a worker, before the master sends it a signal.

A worker names the process by a pid of its choice, and the master may be root. A process of the same user that descends
from the worker is one to which the worker could send the signal itself.
"""

from __future__ import annotations

import contextlib
import os
import select
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MAX_ANCESTORS = 32
"""Maximum generations between a process and its worker."""


class NotOfWorker(Exception):
    """The process does not belong to the worker; the message is the reason."""


class _Stat(NamedTuple):
    parent: int
    group: int
    started: int


@contextlib.contextmanager
def process_of_worker(pid: int, *, worker: int, uid: int, handles: Sequence[int]) -> Iterator[int]:
    """Hold a pidfd of process *pid*, which belongs to the worker whose main process is *worker*.

    *uid*: the user that the worker was started as. *handles*: signals that the process must handle. Raises NotOfWorker,
    and OSError if the process has exited.
    """
    pidfd = os.pidfd_open(pid)  # first: everything read below is about this process, unless it has exited
    try:
        _check(pid, worker, uid, handles)
        if select.select([pidfd], [], [], 0)[0]:
            raise ProcessLookupError(f"process {pid} has ended")
        yield pidfd
    finally:
        os.close(pidfd)


def _check(pid: int, worker: int, uid: int, handles: Sequence[int]) -> None:
    found, first = _stat(pid), _stat(worker)
    if found.started < first.started:
        raise NotOfWorker(f"process {pid} is older than the worker")
    if found.group != worker and worker not in _ancestors(pid):
        raise NotOfWorker(f"process {pid} is neither in the worker's process group nor a descendant of it")
    status = _status(pid)
    uids = {int(each) for each in status["Uid"].split()}  # real, effective, saved and filesystem uid
    if uids != {uid}:
        raise NotOfWorker(f"process {pid} runs as another user than the worker")
    caught = int(status["SigCgt"], 16)
    if not all(caught >> (number - 1) & 1 for number in handles):
        raise NotOfWorker(f"process {pid} does not handle the signal")


def _ancestors(pid: int) -> Iterator[int]:
    for _ in range(MAX_ANCESTORS):
        yield pid
        pid = _stat(pid).parent
        if pid <= 1:
            return


def _stat(pid: int) -> _Stat:
    """Read /proc/PID/stat, which never blocks on the process: see proc_pid_stat(5)."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()  # from the third field on; the second may contain anything
    return _Stat(int(fields[1]), int(fields[2]), int(fields[19]))


def _status(pid: int) -> dict[str, str]:
    with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
        return dict(line.split(":", 1) for line in file.read().split("\n") if ":" in line)
