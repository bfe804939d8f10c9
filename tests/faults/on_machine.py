"""The machine: its disk is full, a process may have no more descriptors, processes or memory, its clock is set."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from cluster_service.errors import CommandError
from tests.tools.shortage import full, limited, no_processes, room_for, size_of

from .on_processes import kill, kill_worker
from .world import Gone

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from .world import World


def full_disk(world: World, random: Random) -> None:
    """The run directory, the log and the state are on a disk on which nothing can be written."""
    with world.short("disk"), full(world.subject.disk):
        provoke(world, random)
        world.last(random.uniform(0.5, 4))


def provoke(world: World, random: Random) -> None:
    """Something that makes the service want what there is none of; it is not waited for."""
    react = random.choice((kill_worker, kill("master"), kill("log writer"), begin_restart, None))
    if react is not None:
        with contextlib.suppress(Gone):
            react(world, random)


def begin_restart(world: World, _random: Random) -> None:
    """Ask for it."""
    with contextlib.suppress(CommandError):
        world.subject.client().command("restart", "all", wait=False)


def limit(role: str, what: int, more: Callable[[int, Random], int]) -> Callable[[World, Random], None]:
    """A limit of the process *role*. *more*: its pid → the limit that leaves it next to nothing."""

    def inject(world: World, random: Random) -> None:
        pid = world.pid(role)
        with world.short((pid, what)), limited(pid, what, more(pid, random)):
            provoke(world, random)
            world.last(random.uniform(0.5, 4))

    return inject


def descriptors(pid: int, random: Random) -> int:
    """Next to none more than there are."""
    return room_for(pid, random.randint(0, 8))


def memory(pid: int, random: Random) -> int:
    """Hardly more address space than there is."""
    return size_of(pid) + random.randint(0, 2 << 20)


def without_processes(role: str) -> Callable[[World, Random], None]:
    """The process *role* can have no more processes or threads."""

    def inject(world: World, random: Random) -> None:
        pid = world.pid(role)
        with world.short((pid, "processes")), no_processes(pid):
            provoke(world, random)
            world.last(random.uniform(0.5, 4))

    return inject


STEPS = (1.0, 60.0, 3600.0, 86400.0, 40 * 86400.0)
"""Seconds by which a clock is wrong: a drift, a slip, a time zone, a day, a battery that has run out."""


def clock_step(world: World, random: Random) -> None:
    """The wall clock is set: back, ahead, or to what it is; and perhaps once more."""
    for _ in range(random.randint(1, 2)):
        world.subject.wall.set(random.choice((0.0, *STEPS, *(-step for step in STEPS))))
        world.last(random.uniform(0, 3))
