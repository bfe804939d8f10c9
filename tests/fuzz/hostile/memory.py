"""The memory that the service shares with a worker: random writes, another size, holes, seals, copies, dead pids."""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import struct
import time
from typing import TYPE_CHECKING, Any

from . import values

if TYPE_CHECKING:
    from collections.abc import Iterator
    from random import Random

LIBC = ctypes.CDLL(None, use_errno=True)
DEEDS = ("words", "words", "words", "words", "bytes", "fill", "resize", "punch", "seal", "map", "descriptor", "fork")
WORDS = (0, 1, 2**31, 2**32 - 1, 2**62, 2**63, 2**64 - 1)
FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE = 1, 2
F_ADD_SEALS = 1033


def inputs(random: Random, count: int) -> Iterator[dict[str, Any]]:
    """Writes at random places, most of them in the first rows, and what else can be done to a file in memory."""
    for _ in range(count):
        do = random.choice(DEEDS)
        place = random.choice((random.randrange(64), random.randrange(4096), random.randrange(1 << 20)))
        word = random.choice((*WORDS, random.getrandbits(64)))
        yield {
            "do": do, "place": place, "word": word, "count": random.choice((1, 1, 8, 64, 512)),
            "pid": random.choice(("self", "parent", "1", "0", "-1", "gone")),
            "fd": random.choice((0, 1, 2, 3, 7, 99999)),
            "size": random.choice((0, 1, 4095, 1 << 20, 1 << 40)), "seals": random.randrange(32),
            "name": random.choice(("cservice-stacks", "memfd:cservice-stacks", values.text(random)[:100])),
        }  # fmt: skip


class Target:
    """Every file in memory that this process has open, and every mapping of one."""

    def __init__(self) -> None:
        self.violations: list[str] = []
        self._files = []
        for name in os.listdir("/proc/self/fd"):
            try:
                if "memfd:cservice" in os.readlink(f"/proc/self/fd/{name}"):
                    self._files.append(int(name))
            except OSError:
                continue
        self._maps = []
        for descriptor in self._files:
            try:
                self._maps.append(mmap.mmap(descriptor, 0))
            except (OSError, ValueError):
                continue  # it may only be read
        self._extra: list[int] = []

    def perform(self, given: dict[str, Any]) -> bool:
        """Carry out one input on each of the files."""
        done = False
        for descriptor in self._files:
            try:
                done = self._on_file(descriptor, given) or done
            except (OSError, ValueError, OverflowError):
                continue
        for view in self._maps:
            self._on_map(view, given)
            done = True
        time.sleep(0.002)  # the master looks at a pace: 100 inputs are seen one after the other
        return done

    def _on_map(self, view: mmap.mmap, given: dict[str, Any]) -> None:
        size = len(view)
        data = b""
        if given["do"] in ("words", "descriptor", "fork"):
            word = given["word"] if given["do"] == "words" else self._pid(given["pid"]) << 32 | given["fd"]
            data = struct.pack("=Q", word & (2**64 - 1)) * given["count"]
        elif given["do"] == "bytes":
            data = struct.pack("=Q", given["word"])[:5] * given["count"]
        elif given["do"] == "fill":
            data = bytes([given["word"] & 0xFF]) * size
        place = (given["place"] * 8) % size
        data = data[: size - place]
        view[place : place + len(data)] = data

    def _on_file(self, descriptor: int, given: dict[str, Any]) -> bool:
        if given["do"] == "resize":
            os.ftruncate(descriptor, given["size"])
        elif given["do"] == "punch":
            flags = FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE
            return bool(LIBC.fallocate(descriptor, flags, ctypes.c_long(0), ctypes.c_long(1 << 20)) == 0)
        elif given["do"] == "seal":
            fcntl.fcntl(descriptor, F_ADD_SEALS, given["seals"])
        elif given["do"] == "map":
            mmap.mmap(descriptor, 0).close()
        elif given["do"] == "descriptor" and len(self._extra) < 32:
            name = given["name"].replace("\0", "").encode("utf-8", "replace").decode()
            self._extra.append(os.memfd_create(name))  # what the name of a file says is the worker's choice
        else:
            return False
        return True

    def _pid(self, which: str) -> int:
        if which == "gone":
            return 4194303
        return {"self": os.getpid(), "parent": os.getppid()}.get(which) or int(which) & 0x7FFFFFFF
