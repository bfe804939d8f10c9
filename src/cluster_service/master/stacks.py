"""Python stacks of a worker that hangs, written by faulthandler, which needs neither a running event loop nor the GIL.

The worker runtime has prepared this (``worker.heartbeat``): on a signal, the process writes its stacks to the board of
the worker. The board names the process; it receives the signal only if it is proved to belong to the worker
(``processes``). The text is untrusted and may change while it is read.
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
"""Maximum seconds until the process begins to write."""
QUIET_SECONDS = 0.2
"""Seconds without further text after which the dump counts as complete: a busy machine writes slowly."""
MAX_SECONDS = 5.0
"""Maximum seconds for one dump."""
ENDS = (b" in <module>\n", b"...\n")
"""Usual ends of a dump: the main thread is dumped last; "..." follows the maximum number of threads or frames."""
STEP_SECONDS = 0.02
MAIN, AGAIN = "Stack (", "Current thread "
"""How a dump introduces the main thread: in a dump of that thread only, and in a dump of all threads."""
MAX_BYTES = 64 * 1024
"""Maximum bytes that are read of each of the two dumps."""
MAX_LINES, MAX_LINE = 1000, 500
OWN = f"{os.sep}cluster_service{os.sep}"


async def dump(board: Board, worker: int, uid: int) -> tuple[tuple[str, ...], str]:
    """Let a process of the worker write its stacks. Return their lines, and a reason to log if there are none.

    *worker*: the pid of the worker's main process. *uid*: the user that the worker was started as.
    """
    pid = board.read().stacks_pid
    if not pid:
        return (), ""
    signals = (main_signal(), dump_signal())  # main thread first: the signal may interrupt what it waits in
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
    except OSError:  # the process has exited
        pass
    return tuple(readable(lines)[:MAX_LINES]), ""


async def _said(process: int, number: int, board: Board) -> list[str]:
    """Return what *process* writes to *board* on the signal *number*."""
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
    """Return the lines without threads that run only the runtime's own code, and with equal threads merged.

    The lines of a thread follow the line that names it. The main thread is first and may occur again.
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
