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

from cluster_service.wire.board import STACKS_FILE, dump_signal, main_signal

if TYPE_CHECKING:
    from cluster_service.wire.board import Row

PATIENCE = 1.0
"""Seconds for the process to begin to write."""
QUIET = 0.2
"""Seconds without a further word that mean that this was all: on a busy machine it is slow."""
ENDS = (b" in <module>\n", b"...\n")
"""The last words, where it is as usual: the main thread is the last of all, if there are no more than are told of."""
STEP = 0.02
MAIN, AGAIN = "Stack (", "Current thread "
"""How faulthandler names the thread that it runs in, the main one: alone, and among a hundred others."""
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
        main = await _said(process, main_signal(), file)  # first: what it waits in may be ended by a signal
        return tuple(readable(main + (await _said(process, dump_signal(), file) if main else [])))
    return ()


async def _said(process: int, number: int, file: int) -> list[str]:
    """What *process* writes to *file* when it is sent the signal *number*."""
    before = os.fstat(file).st_size
    signal.pidfd_send_signal(process, number)
    data, quiet = b"", 0.0
    while not data.endswith(ENDS) and quiet < (QUIET if data else PATIENCE):
        await asyncio.sleep(STEP)
        now = os.pread(file, MOST, before)
        quiet = quiet + STEP if now == data else 0.0
        data = now
    return data.decode("utf-8", "replace").splitlines()


def readable(lines: list[str]) -> list[str]:
    """Leave out the threads that run nothing but the runtime's own code, and tell of those that do the same at once.

    A thread's lines follow one that names it. The main thread's come first, and may come again.
    """
    threads: list[tuple[str, list[str]]] = []
    for line in filter(str.strip, lines):
        if not line.startswith(" "):
            threads.append((line.replace(MAIN, "Main thread ("), []))
        elif threads:
            threads[-1][1].append(line)
    like: dict[tuple[str, ...], list[str]] = {}
    for name, frames in threads:
        again = name.startswith(AGAIN) and frames[-1:] == threads[0][1][-1:]
        if not again and not (frames and all(OWN in frame for frame in frames)):
            like.setdefault(tuple(frames), []).append(name)
    told: list[str] = []
    for same, (first, *others) in like.items():
        told += [f"{first} and {len(others)} more like it" if others else first, *same]
    return told
