"""Descriptors that come with facts: each is the one that its fact means, even where another was lost."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
from typing import Any

from cluster_service.guardian.master_link import Link
from cluster_service.master.guardian_client import Kernel
from cluster_service.wire import facts


def files(count: int) -> list[int]:
    return [os.memfd_create(f"board {number}") for number in range(count)]


def board(number: int, file: int) -> facts.Monitoring:
    return facts.Monitoring(number, 0, descriptor=True, inode=os.fstat(file).st_ino)


class Ends:
    """Both ends of the stream, and what the master takes in."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        self.link = Link(ours)
        self.taken: list[tuple[Any, int | None]] = []
        loop = asyncio.get_running_loop()
        self.kernel = Kernel(theirs, loop, lambda *both: self.taken.append(both), lambda: None, lambda: None)

    def inodes(self) -> list[int | None]:
        """The inode that came with each fact."""
        return [None if descriptor is None else os.fstat(descriptor).st_ino for _, descriptor in self.taken]

    def close(self) -> None:
        self.link.close()
        self.kernel.pump()
        self.kernel.close()
        for _, descriptor in self.taken:
            if descriptor is not None:
                os.close(descriptor)


def test_descriptors_go_to_the_facts_that_mean_them() -> None:
    async def run() -> None:
        ends, (first, second) = Ends(), files(2)
        door = socket.socket()
        ends.link.send(board(1, first), first)
        ends.link.send(facts.Spawned(2, 1))
        ends.link.send(
            facts.Listening("127.0.0.1:1", descriptor=True, inode=os.fstat(door.fileno()).st_ino), door.fileno()
        )
        ends.link.send(board(2, second), second)
        ends.kernel.pump()
        inodes = [os.fstat(each).st_ino for each in (first, door.fileno(), second)]
        assert ends.inodes() == [inodes[0], None, *inodes[1:]]
        door.close()
        for each in (first, second):
            os.close(each)
        ends.close()

    asyncio.run(run())


def test_one_that_is_lost_is_nobody_elses() -> None:
    async def run() -> None:
        ends, boards = Ends(), files(3)
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        ends.link.send(board(1, boards[0]), boards[0])
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))), limits[1]))
        spare = []
        try:
            while True:
                spare.append(os.dup(0))
        except OSError:  # there is no number left
            ends.kernel.pump()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            for each in spare:
                os.close(each)
        for number in (2, 3):
            ends.link.send(board(number, boards[number - 1]), boards[number - 1])
        ends.kernel.pump()
        assert ends.inodes() == [None, *(os.fstat(each).st_ino for each in boards[1:])]
        for each in boards:
            os.close(each)
        ends.close()

    asyncio.run(run())


def test_what_came_with_a_fact_that_is_not_known_is_closed() -> None:
    async def run() -> None:
        ends, (unknown, known) = Ends(), files(2)
        before = len(os.listdir("/proc/self/fd"))
        ends.link.send(facts.Spawned(1, 1), unknown)  # which brings none, as far as this master knows
        ends.link.send(board(2, known), known)
        ends.kernel.pump()
        assert ends.inodes() == [None, os.fstat(known).st_ino]
        assert len(os.listdir("/proc/self/fd")) == before + 1
        for each in (unknown, known):
            os.close(each)
        ends.close()

    asyncio.run(run())
