"""What a worker that hangs is doing: its Python stacks, by faulthandler, which needs no loop that turns nor the GIL.

The runtime has prepared for it (``worker.stacks``): the worker's row says which process that is, and which of its
descriptors faulthandler writes to when the signal comes. The signal goes to that process and to no other: its pid may
be another's by now, so it is held by a descriptor, and must have the file, before it is sent anything.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from typing import TYPE_CHECKING

from cluster_service.wire.board import STACKS_FILE, dump_signal

if TYPE_CHECKING:
    from cluster_service.wire.board import Row

PATIENCE = 1.0
"""Seconds for the process to begin to write."""
STEP = 0.02
MOST = 64 * 1024
"""Bytes that are read at most."""
OWN = f"{os.sep}cluster_service{os.sep}"


async def dump(row: Row | None) -> tuple[str, ...]:
    """Have the process of *row* write its stacks and return their lines; none where it cannot be had."""
    if row is None or not row.stacks_pid:
        return ()
    with contextlib.ExitStack() as opened, contextlib.suppress(OSError):
        process = os.pidfd_open(row.stacks_pid)
        opened.callback(os.close, process)
        name = f"/proc/{row.stacks_pid}/fd/{row.stacks_fd}"
        if STACKS_FILE not in os.readlink(name):
            return ()
        file = os.open(name, os.O_RDONLY | os.O_CLOEXEC)
        opened.callback(os.close, file)
        before = os.fstat(file).st_size
        signal.pidfd_send_signal(process, dump_signal())
        await _written(file, before)
        return tuple(readable(os.pread(file, MOST, before).decode("utf-8", "replace").splitlines()))
    return ()


async def _written(file: int, before: int) -> None:
    """Return when more has been written than *before*, and no more comes; or after ``PATIENCE``."""
    size, rounds = before, 0
    while rounds * STEP < PATIENCE:
        await asyncio.sleep(STEP)
        rounds += 1
        now = os.fstat(file).st_size
        if now == size and now > before:
            return
        size = now


def readable(lines: list[str]) -> list[str]:
    """Leave out the threads that run nothing but the runtime's own code, and tell of those that do the same at once.

    A thread's lines follow one that names it.
    """
    threads: list[tuple[str, list[str]]] = []
    for line in filter(str.strip, lines):
        if not line.startswith(" "):
            threads.append((line, []))
        elif threads:
            threads[-1][1].append(line)
    like: dict[tuple[str, ...], list[str]] = {}
    for name, frames in threads:
        if not (frames and all(OWN in frame for frame in frames)):
            like.setdefault(tuple(frames), []).append(name)
    told: list[str] = []
    for same, (first, *others) in like.items():
        told += [f"{first} and {len(others)} more like it" if others else first, *same]
    return told
