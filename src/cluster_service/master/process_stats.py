"""Memory, CPU and connections of workers, and proof that a process belongs to a worker, from /proc (see proc(5))."""

from __future__ import annotations

import contextlib
import itertools
import os
import select
import threading
import time
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

ESTABLISHED = " 01 "
"""State of an established connection in /proc/net/tcp (include/net/tcp_states.h)."""

MAX_PROCESSES = 1000
"""Maximum processes that are read per worker."""

MAX_DESCRIPTORS = 20_000
"""Maximum descriptors that are read per process."""

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Use(NamedTuple):
    """Resources of one process. *cpu*: seconds; *born*: start, in seconds of CLOCK_BOOTTIME; *memory*: RSS in bytes."""

    cpu: float
    born: float
    memory: int


class Gauges:
    """Usage of the workers. It keeps the previous reading, since CPU usage is the difference between two readings."""

    def __init__(self) -> None:
        self._seen: dict[tuple[int, float], tuple[float, float]] = {}
        """(pid, born) → the time of the reading and the CPU seconds used until then."""

    def fill(self, rows: Iterable[dict[str, Any]]) -> None:
        """Set ``memory_bytes``, ``cpu_percent`` and ``connections`` of each row that has a pid.

        CPU is in percent of one core since the previous reading (for the first: since the process started).
        """
        rows = [row for row in rows if row["pid"]]
        established = _established({port for row in rows for port in map(_port, row["listening"]) if port})
        now = time.clock_gettime(time.CLOCK_BOOTTIME)
        seen = {}
        for row in rows:
            pids = _family(row["pid"])
            uses = [use for use in map(_use, pids) if use is not None]
            if not uses:
                continue
            cpu, born = sum(use.cpu for use in uses), uses[0].born
            at, used = self._seen.get((row["pid"], born), (born, 0.0))
            seen[row["pid"], born] = (now, cpu)
            row["memory_bytes"] = sum(use.memory for use in uses)
            row["cpu_percent"] = round(max(0.0, 100 * (cpu - used) / max(now - at, 0.01)), 1)
            row["connections"] = sum(len(established & _sockets(pid)) for pid in pids) if established else 0
        self._seen = seen


def _port(address: str) -> int | None:
    port = address.rpartition(":")[2].removesuffix("+v4")
    return int(port) if port.isdecimal() else None


def _family(pid: int) -> list[int]:
    """Return *pid* and its descendants."""
    found = [pid]
    for parent in found:  # found grows during the iteration
        if len(found) >= MAX_PROCESSES:
            return found[:MAX_PROCESSES]
        try:
            for thread in os.listdir(f"/proc/{parent}/task"):
                with open(f"/proc/{parent}/task/{thread}/children", encoding="ascii") as children:
                    found += map(int, children.read().split())
        except OSError:
            continue
    return found


def _use(pid: int) -> Use | None:
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as stat:
            fields = stat.read().rpartition(")")[2].split()  # from the third field on
    except OSError:
        return None
    return Use((int(fields[11]) + int(fields[12])) / _TICKS, int(fields[19]) / _TICKS, int(fields[21]) * _PAGE)


class Scales:
    """Memory of the workers, measured without blocking the master.

    Reading the proportional set size takes the lock of the process's memory map, which the process can hold
    indefinitely. Therefore a thread reads it for the next measurement, at most one thread per worker. While that thread
    is stuck, the resident set size is used instead, which is never smaller.
    """

    def __init__(self) -> None:
        self._readings: dict[int, _Reading] = {}

    def memory(self, worker: int, pid: int, how: str) -> int:
        """Return the bytes used by *pid*, of *worker*, and its descendants; 0: not known yet. *how*: rss or pss."""
        pids = _family(pid)
        if how == "pss":
            reading = self._readings.setdefault(worker, _Reading())
            if reading.begin(pids):
                return reading.bytes
        return sum(map(_resident, pids))

    def forget(self, worker: int) -> None:
        """Drop the reading of a worker that is gone."""
        self._readings.pop(worker, None)


class _Reading:
    """The last proportional set size read for one worker, and the thread that reads the next."""

    def __init__(self) -> None:
        self.bytes = 0
        self._thread: threading.Thread | None = None

    def begin(self, pids: list[int]) -> bool:
        """Start the next reading. Return False if the last thread is stuck or no thread can be started."""
        if self._thread is not None and self._thread.is_alive():
            return False
        self._thread = threading.Thread(target=self._read, args=(pids,), daemon=True)
        try:
            self._thread.start()
        except RuntimeError:
            self._thread = None
            return False
        return True

    def _read(self, pids: list[int]) -> None:
        self.bytes = sum(map(_proportional, pids))


def _proportional(pid: int) -> int:
    """Return the proportional set size, or the resident set size if reading it is not permitted."""
    try:
        with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as sums:
            return next((int(line.split()[1]) * 1024 for line in sums if line.startswith("Pss:")), 0)
    except OSError:
        return _resident(pid)


def _resident(pid: int) -> int:
    use = _use(pid)
    return use.memory if use is not None else 0


def _established(ports: set[int]) -> set[str]:
    """Return the inodes of the established connections to any of *ports*."""
    inodes: set[str] = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6") if ports else ():
        try:
            with open(table, encoding="ascii") as lines:
                next(lines)
                for line in lines:
                    if ESTABLISHED not in line:  # skip quickly: a busy server has thousands in TIME_WAIT
                        continue
                    fields = line.split()
                    if fields[3] == "01" and int(fields[1].rpartition(":")[2], 16) in ports:
                        inodes.add(fields[9])
        except OSError:
            continue
    return inodes


def _sockets(pid: int) -> set[str]:
    """Return the inodes of the sockets that a process has open."""
    found: set[str] = set()
    try:
        for entry in itertools.islice(os.scandir(f"/proc/{pid}/fd"), MAX_DESCRIPTORS):
            try:
                target = os.readlink(entry.path)
            except OSError:
                continue
            if target.startswith("socket:["):
                found.add(target[8:-1])
    except OSError:
        pass
    return found


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
