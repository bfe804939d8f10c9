"""What is told of the stacks that faulthandler has written, and what a worker can do instead of writing them."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from cluster_service.master import heartbeats
from cluster_service.master.heartbeats import Board, readable
from cluster_service.wire import worker_protocol as wire

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MAIN = ['  File "/srv/app.py", line 9 in wait', '  File "/srv/app.py", line 2 in <module>']
WOKEN = ['  File "/srv/app.py", line 11 in work', '  File "/srv/app.py", line 2 in <module>']
POOL = ['  File "/srv/pool.py", line 5 in answer', '  File "/lib/threading.py", line 7 in _bootstrap']
OURS = ['  File "/lib/cluster_service/worker/guardian_channel.py", line 5 in _read']


def test_the_main_thread_comes_first_and_once_as_it_was_at_first() -> None:
    written = ["Stack (most recent call first):", *MAIN, "", "Thread 0x1 (most recent call first):", *POOL, ""]
    written += ["Current thread 0x2 (most recent call first):", *WOKEN]
    assert readable(written) == [
        "Main thread (most recent call first):",
        *MAIN,
        "Thread 0x1 (most recent call first):",
        *POOL,
    ]


def test_another_thread_that_took_the_signal_is_told_too() -> None:
    written = ["Stack (most recent call first):", *MAIN, "Current thread 0x1 (most recent call first):", *POOL]
    assert readable(written)[3:] == ["Current thread 0x1 (most recent call first):", *POOL]


def test_threads_that_do_the_same_are_told_at_once_and_ours_not_at_all() -> None:
    written = ["Stack (most recent call first):", *MAIN]
    for number in range(3):
        written += [f"Thread 0x{number} (most recent call first):", *POOL]
    written += ["Thread 0x9 (most recent call first):", *OURS, "..."]
    assert readable(written)[3:] == ["Thread 0x0 (most recent call first): and 2 more like it", *POOL, "..."]


def test_of_nothing_nothing_is_told() -> None:
    assert readable([]) == []


@pytest.fixture
def memory() -> Iterator[int]:
    descriptor = os.memfd_create("board")
    os.ftruncate(descriptor, wire.SIZE)
    yield descriptor
    os.close(descriptor)


def name(memory: int, pid: int) -> None:
    """Write *pid* to the board as the process that writes the stacks."""
    os.pwrite(memory, pid.to_bytes(8, sys.byteorder), wire.STACKS * wire.CELL)


def dumped(memory: int, worker: int) -> tuple[tuple[str, ...], str]:
    board = Board(os.dup(memory))
    try:
        return asyncio.run(heartbeats.dump(board, worker, os.getuid()))
    finally:
        board.close()


@contextlib.contextmanager
def writer(memory: int, text: str) -> Iterator[int]:
    """A process that writes what the expression *text* gives, to the room for stacks, at each of the two signals."""
    code = (
        "import itertools, os, signal, sys\n"
        f"def say(*_): os.pwrite({memory}, next(texts), {wire.STACKS_AT})\n"
        f"texts = {text}\n"
        f"for number in {wire.main_signal()}, {wire.dump_signal()}: signal.signal(number, say)\n"
        "print(flush=True)\nsys.stdin.read()\n"
    )
    argv = [sys.executable, "-c", code]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=[memory]) as process:
        assert process.stdout is not None
        process.stdout.readline()
        name(memory, process.pid)
        yield process.pid
        process.kill()


def test_nothing_is_opened_by_a_name_or_a_number_of_the_workers(memory: int, tmp_path: Path) -> None:
    fifo = tmp_path / "memfd:cservice-stacks"
    os.mkfifo(fifo)
    opened = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    with subprocess.Popen(["sleep", "600"]) as another:
        for named in (0, another.pid, os.getppid(), 1, 2**64 - 1, os.getpid() << 32 | opened):
            name(memory, named)
            lines, why = dumped(memory, os.getpid())
            assert lines == ()
            assert (named in (another.pid, os.getppid(), 1)) == bool(why), (named, why)
        assert another.poll() is None, "no signal was sent"
        another.kill()
    os.close(opened)


def test_what_is_written_is_text_of_a_bounded_size(memory: int) -> None:
    shown = r"'Stack (most\x1b[2J\udc80:\n  File \"a\" in f\n'.encode('utf-8', 'surrogatepass')"
    with writer(memory, f"iter([{shown}, b'x' * {wire.STACKS_SIZE}])") as pid:
        lines, why = dumped(memory, pid)
    assert why == ""
    assert lines[0] == "Main thread (most\\x1b[2J���:"
    assert all(line.isprintable() and len(line) <= heartbeats.MAX_LINE + 2 for line in lines)


def test_one_that_never_ends_to_write_is_not_waited_for(memory: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeats, "MAX_SECONDS", 0.1)
    changing, asked = Board(os.dup(memory)), itertools.count()
    monkeypatch.setattr(changing, "stacks", lambda *_: b"%d" % next(asked))
    with writer(memory, "itertools.repeat(b'')") as pid:
        lines, _ = asyncio.run(heartbeats.dump(changing, pid, os.getuid()))
    assert len(lines) == 1
    changing.close()


def test_a_board_that_is_taken_away_meanwhile_is_no_other_file(memory: int) -> None:
    board = Board(os.dup(memory))
    board.close()
    with pytest.raises(OSError, match="Bad file"):
        board.read()
