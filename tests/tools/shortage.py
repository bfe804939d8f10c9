"""Real shortages, for a while: of descriptors, memory, processes, and room on a disk."""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = os.geteuid() == 0
PIDS = Path("/sys/fs/cgroup/pids")
"""Where control groups of processes are made (version 1 of them)."""
GROUPS = ROOT and os.access(PIDS / "cgroup.procs", os.W_OK)


@contextmanager
def limited(pid: int, what: int, soft: int) -> Iterator[None]:
    """A block in which *pid* has the soft limit *soft* (``resource.RLIMIT_…``). Raises ProcessLookupError."""
    before = resource.prlimit(pid, what)
    resource.prlimit(pid, what, (soft, before[1]))
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(pid, what, before)


def room_for(pid: int, more: int) -> int:
    """The limit with which *pid* can open *more* descriptors. Raises FileNotFoundError when it has ended."""
    taken = {int(name) for name in os.listdir(f"/proc/{pid}/fd")}
    free = (number for number in range(1 << 20) if number not in taken)
    return [next(free) for _ in range(more + 1)][-1]


def size_of(pid: int) -> int:
    """The bytes of its address space. Raises FileNotFoundError when it has ended."""
    return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()


@contextmanager
def no_processes(pid: int) -> Iterator[None]:
    """A block in which *pid*, and what it starts, can have no more processes or threads: fork fails with EAGAIN.

    Where ``GROUPS``. Raises ProcessLookupError.
    """
    room = PIDS / f"cservice-tests-{pid}"
    room.mkdir()
    try:
        (room / "cgroup.procs").write_text(str(pid))
        (room / "pids.max").write_text((room / "pids.current").read_text())
        yield
    finally:
        (room / "pids.max").write_text("max")
        while left := (room / "cgroup.procs").read_text().split():
            for each in left:
                with contextlib.suppress(ProcessLookupError):
                    (PIDS / "cgroup.procs").write_text(each)
        room.rmdir()


@contextmanager
def small_disk(folder: Path, size: str = "1m") -> Iterator[None]:
    """A block in which *folder* is a file system of that size. Where ``ROOT``."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "none", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


@contextmanager
def full(folder: Path) -> Iterator[None]:
    """A block in which not one byte more can be written to the file system that *folder* is."""
    ballast = folder / "ballast"
    try:
        with ballast.open("wb", buffering=0) as file:
            size = 1 << 16
            while size:
                try:
                    file.write(b"\0" * size)
                except OSError:
                    size //= 2
        yield
    finally:
        ballast.unlink(missing_ok=True)
