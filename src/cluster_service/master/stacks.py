"""What a worker that hangs is doing: its Python stacks, by faulthandler, which needs no loop that turns nor the GIL.

The runtime has prepared for it (``worker.stacks``): on a signal the process writes its stacks to the worker's board.
The board says which process that is; it gets the signal only if it is proved to be the worker's (``processes``). The
text is untrusted, and may change while it is read.
"""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING

from cluster_service.wire.board import dump_signal, main_signal

from .processes import NotOfWorker, process_of_worker
from .untrusted import printable

if TYPE_CHECKING:
    from .board import Board

START_SECONDS = 1.0
"""How long the process may take to begin to write."""
QUIET_SECONDS = 0.2
"""Time without further text that means that this was all: on a busy machine it is slow."""
MAX_SECONDS = 5.0
"""How long it may go on writing."""
ENDS = (b" in <module>\n", b"...\n")
"""The last words, where it is as usual: the main thread is the last of all, if there are no more than are told of."""
STEP_SECONDS = 0.02
MAIN, AGAIN = "Stack (", "Current thread "
"""How faulthandler names the thread that it runs in, the main one: alone, and among a hundred others."""
MAX_BYTES = 64 * 1024
"""Bytes that are read of each of the two texts at most."""
MAX_LINES, MAX_LINE = 1000, 500
OWN = f"{os.sep}cluster_service{os.sep}"


async def dump(board: Board, worker: int, uid: int) -> tuple[tuple[str, ...], str]:
    """Have a worker's process write its stacks; return their lines, and why there are none where that is worth a word.

    *worker*: the pid of the worker's own process. *uid*: as whom it was started.
    """
    pid = board.read().stacks_pid
    if not pid:
        return (), ""
    signals = (main_signal(), dump_signal())  # the main thread first: what it waits in may be ended by a signal
    lines: list[str] = []
    try:
        with process_of_worker(pid, worker=worker, uid=uid, handles=signals) as process:
            for number in signals:
                said = await _said(process, number, board)
                if not said:
                    break
                lines += said
    except NotOfWorker as error:
        return (), str(error)
    except OSError:  # it has ended
        pass
    return tuple(readable(lines)[:MAX_LINES]), ""


async def _said(process: int, number: int, board: Board) -> list[str]:
    """Return what *process* writes to *board* when it is sent the signal *number*."""
    before = len(board.stacks())
    signal.pidfd_send_signal(process, number)
    data, quiet, waited = b"", 0.0, 0.0
    while not data.endswith(ENDS) and quiet < (QUIET_SECONDS if data else START_SECONDS) and waited < MAX_SECONDS:
        await asyncio.sleep(STEP_SECONDS)
        waited += STEP_SECONDS
        now = board.stacks(before, MAX_BYTES)
        quiet = quiet + STEP_SECONDS if now == data else 0.0
        data = now
    return [printable(line, MAX_LINE) for line in data.decode("utf-8", "replace").split("\n")]


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
