"""The board, as a worker finds it: a row of its own, empty, in memory that it cannot make smaller."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from cluster_service.guardian.board import Board
from cluster_service.wire import board, facts, orders
from tests.tools.ports import free_port

from .puppet import Puppet

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.contract.real import RealKernel

FIND = """
fd, row = map(int, os.environ["CSERVICE_BOARD"].split(":"))
def write(cell, value):
    os.pwrite(fd, value.to_bytes(8, sys.byteorder), row * 64 + cell * 8)
def read(cell):
    return int.from_bytes(os.pread(fd, 8, row * 64 + cell * 8), sys.byteorder)
result = row
"""


def test_workers_write_in_one_memory_each_its_row(kernel: RealKernel) -> None:
    puppets = [Puppet(kernel, number) for number in (1, 2)]
    for row, puppet in enumerate(puppets):
        assert puppet.do(FIND) == row
        puppet.do(f"write({board.REQUESTS}, {row + 100})")
    assert puppets[0].do(f"result = int.from_bytes(os.pread(fd, 8, 64 + {board.REQUESTS * 8}), sys.byteorder)") == 101


def test_a_row_is_empty_for_the_next(kernel: RealKernel) -> None:
    first = Puppet(kernel, 1)
    first.do(FIND)
    first.do("[write(cell, 7) for cell in range(8)]")
    first.end()
    second = Puppet(kernel, 2)
    assert second.do(FIND) == 0
    assert second.do("result = [read(cell) for cell in range(8)]") == [0] * board.CELLS


def test_a_worker_cannot_cut_it_short(kernel: RealKernel) -> None:
    puppet = Puppet(kernel, 1)
    puppet.do(FIND)
    assert puppet.do("result = os.fstat(fd).st_size") == board.SIZE
    assert puppet.fails("os.ftruncate(fd, 0)") == errno.EPERM
    assert puppet.fails("os.ftruncate(fd, 1 << 30)") == errno.EPERM


def test_who_has_no_channel_has_no_row(kernel: RealKernel) -> None:
    show = "import os; print('CSERVICE_BOARD' in os.environ, flush=True)"
    kernel.send(orders.Spawn(1, [sys.executable, "-I", "-S", "-c", show], {}, "/", "web.1"))
    assert kernel.fact(facts.Spawned, worker=1).row == -1
    assert kernel.wrote("False")


@pytest.fixture
def kept() -> Iterator[Board]:
    made = Board()
    yield made
    os.close(made.descriptor)


def test_the_lowest_free_row_is_taken(kept: Board) -> None:
    assert [kept.take() for _ in range(4)] == [0, 1, 2, 3]
    kept.give_back(1)
    kept.give_back(-1)
    assert [kept.take() for _ in range(2)] == [1, 4]


def test_there_is_an_end_to_the_rows(kept: Board) -> None:
    assert [kept.take() for _ in range(board.ROWS + 1)] == [*range(board.ROWS), -1]


def test_without_memory_there_are_no_rows() -> None:
    code = (
        "import os\ndef fail(*_): raise OSError(38, 'no such call')\nos.memfd_create = fail\n"
        "from cluster_service.guardian.board import Board\nboard = Board()\nprint(board.descriptor, board.take())\n"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.split() == ["-1", "-1"]


def test_a_start_that_fails_leaves_no_socket_of_its_own(kernel: RealKernel) -> None:
    address = f"127.0.0.1:{free_port()}"
    kernel.send(orders.Listen(address))
    kernel.fact(facts.Listening, worker=None)
    puppet = Puppet(kernel, 1)
    puppet.settle()  # with the helper's socket
    before = sorted(os.listdir(f"/proc/{kernel.process.pid}/fd"))
    argv = [sys.executable, "-c", ""]
    for number, passed in ((2, [address, "127.0.0.1:9"]), (3, [address])):
        fields = {"cwd": "/", "label": "web.0", "share": "inherit", "inherit": passed, "private": True}
        kernel.send(orders.Spawn(number, argv if number == 2 else ["/nonexistent"], {}, channel=True, **fields))  # type: ignore[arg-type]
        kernel.fact(facts.SpawnFailed, worker=number)
    puppet.settle()
    assert sorted(os.listdir(f"/proc/{kernel.process.pid}/fd")) == before
