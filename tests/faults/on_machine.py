"""Shortages: the disk is full, or a process may have no more descriptors, processes or memory, for a while."""

from __future__ import annotations

import contextlib
import os
import resource
from pathlib import Path
from typing import TYPE_CHECKING

from .on_processes import kill, kill_worker
from .on_commands import restart
from .world import Gone

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from random import Random

    from .world import World

PIDS = Path("/sys/fs/cgroup/pids")


def full_disk(world: World, random: Random) -> None:
    """The run directory, the log and the state are on a disk on which nothing can be written."""
    with world.hurting(), world.subject.full_disk():
        provoke(world, random)
        world.last(random.uniform(0.5, 4))


def provoke(world: World, random: Random) -> None:
    """Something that makes the service want what there is none of."""
    react = random.choice((kill_worker, kill("master"), kill("log writer"), restart, None))
    if react is not None:
        with contextlib.suppress(Gone, AssertionError):
            react(world, random)


def limit(role: str, what: int, more: Callable[[int, Random], int]) -> Callable[[World, Random], None]:
    """A limit of the process *role*. *more*: its pid → the limit that leaves it next to nothing."""

    def inject(world: World, random: Random) -> None:
        pid = world.pid(role)
        with world.hurting(), limited(pid, what, more(pid, random)):
            provoke(world, random)
            world.last(random.uniform(0.5, 4))

    return inject


@contextlib.contextmanager
def limited(pid: int, what: int, soft: int) -> Iterator[None]:
    """A block in which *pid* has the soft limit *soft*."""
    before = resource.prlimit(pid, what)
    resource.prlimit(pid, what, (soft, before[1]))
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(pid, what, before)


def descriptors(pid: int, random: Random) -> int:
    """The highest descriptor that is open, and one to three more."""
    try:
        return max(map(int, os.listdir(f"/proc/{pid}/fd"))) + 1 + random.randint(0, 3)
    except FileNotFoundError:
        raise Gone(f"{pid} has ended") from None


def memory(pid: int, random: Random) -> int:
    """The address space that there is, and up to two megabytes more."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[0])
    except FileNotFoundError:
        raise Gone(f"{pid} has ended") from None
    return pages * resource.getpagesize() + random.randint(0, 2 << 20)


def no_processes(role: str) -> Callable[[World, Random], None]:
    """The process *role* can have no more processes or threads: fork fails with EAGAIN (cgroup ``pids``)."""

    def inject(world: World, random: Random) -> None:
        pid = world.pid(role)
        room = PIDS / f"cservice-faults-{os.getpid()}"
        room.mkdir(exist_ok=True)
        try:
            with world.hurting():
                (room / "cgroup.procs").write_text(str(pid))
                (room / "pids.max").write_text((room / "pids.current").read_text())
                provoke(world, random)
                world.last(random.uniform(0.5, 4))
        except ProcessLookupError:
            raise Gone(f"{pid} has ended") from None
        finally:
            (room / "pids.max").write_text("max")
            for left in (room / "cgroup.procs").read_text().split():
                with contextlib.suppress(ProcessLookupError):
                    (PIDS / "cgroup.procs").write_text(left)
            room.rmdir()

    return inject
