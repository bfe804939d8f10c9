"""The board: memory of one worker's own, empty, of a size that it cannot change; and how the master receives it."""

from __future__ import annotations

import errno
import os
import socket
import stat
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cluster_service.wire import facts, orders, worker_protocol
from tests.tools.ports import free_port

from .puppet import Puppet

if TYPE_CHECKING:
    from tests.contract.real import RealKernel

FIND = """
fd = int(os.environ["CSERVICE_BOARD"])
result = os.fstat(fd).st_ino
"""
WRITE_ALL = f"""
import mmap
os.pwrite(fd, b"\\xff" * {worker_protocol.SIZE}, 0)
memory = mmap.mmap(fd, {worker_protocol.SIZE})
memory[:] = b"\\xff" * {worker_protocol.SIZE}
"""


def received(kernel: RealKernel, fact: facts.Monitoring) -> int:
    """The descriptor that came with *fact*."""
    (found,) = [each for each in kernel.descriptors if os.fstat(each).st_ino == fact.inode]
    return found


def monitoring(kernel: RealKernel, worker: int) -> facts.Monitoring:
    return kernel.fact(facts.Monitoring, worker=worker)


def test_what_a_worker_writes_stands_on_its_own_board_only(kernel: RealKernel) -> None:
    puppets = [Puppet(kernel, number) for number in (1, 2, 3)]
    inodes = [puppet.do(FIND) for puppet in puppets]
    boards = [received(kernel, monitoring(kernel, puppet.number)) for puppet in puppets]
    assert [os.fstat(each).st_ino for each in boards] == inodes
    assert len(set(inodes)) == 3
    puppets[1].do(WRITE_ALL)
    nothing = bytes(worker_protocol.SIZE)
    full = b"\xff" * worker_protocol.SIZE
    assert [os.pread(each, worker_protocol.SIZE, 0) for each in boards] == [nothing, full, nothing]
    for puppet in (puppets[0], puppets[2]):
        assert puppet.do(f"result = any(os.pread(fd, {worker_protocol.SIZE}, 0))") is False


def test_a_worker_cannot_change_its_size_or_its_seals(kernel: RealKernel) -> None:
    puppet = Puppet(kernel, 1)
    puppet.do(FIND)
    puppet.do("import fcntl")
    assert puppet.do("result = os.fstat(fd).st_size") == worker_protocol.SIZE
    assert puppet.fails("os.ftruncate(fd, 0)") == errno.EPERM
    assert puppet.fails("os.ftruncate(fd, 1 << 30)") == errno.EPERM
    assert puppet.fails(f"os.pwrite(fd, b'x', {worker_protocol.SIZE})") == errno.EPERM
    assert puppet.fails(f"os.posix_fallocate(fd, 0, {worker_protocol.SIZE + 1})") == errno.EPERM
    assert puppet.fails("fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)") == errno.EPERM


def test_the_next_worker_has_another_board(kernel: RealKernel) -> None:
    first = Puppet(kernel, 1)
    first.do(FIND)
    first.do(WRITE_ALL)
    first.end()
    second = Puppet(kernel, 2)
    second.do(FIND)
    assert second.do(f"result = any(os.pread(fd, {worker_protocol.SIZE}, 0))") is False


def test_a_new_master_receives_the_boards_of_those_that_live(kernel: RealKernel) -> None:
    puppets = [Puppet(kernel, number) for number in (1, 2)]
    inodes = [puppet.do(FIND) for puppet in puppets]
    puppets[0].end()
    kernel.restart_master()
    kernel.send(orders.Hello())
    kernel.fact(facts.Snapshot)
    fact = monitoring(kernel, 2)
    assert (fact.inode, fact.uid) == (inodes[1], os.getuid())
    assert os.fstat(received(kernel, fact)).st_ino == inodes[1]
    kernel.nothing_of(facts.Monitoring)


def test_who_has_no_channel_has_no_board(kernel: RealKernel) -> None:
    show = "import os; print('CSERVICE_BOARD' in os.environ, flush=True)"
    kernel.send(orders.Spawn(1, [sys.executable, "-I", "-S", "-c", show], {}, "/", "web.1", check=True))
    kernel.fact(facts.Spawned, worker=1)
    assert kernel.wrote("False")
    kernel.nothing_of(facts.Monitoring)


def test_where_the_machine_allows_none_there_are_none() -> None:
    code = (
        "import os\ndef fail(*_): raise OSError(38, 'no such call')\nos.memfd_create = fail\n"
        "from cluster_service.guardian import spawn\nprint(spawn.create_board())\n"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.split() == ["-1"]


def test_a_worker_is_checked_on_a_socket_of_the_guardians(kernel: RealKernel) -> None:
    puppet = Puppet(kernel, 1, check=True)
    address = monitoring(kernel, 1).check
    puppet.do("s = socket.socket(fileno=int(os.environ['CSERVICE_CHECK']))")
    assert puppet.do("result = 'unix:' + s.getsockname()") == address
    path = Path(address.removeprefix("unix:"))
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        puppet.do("s.setblocking(True)\nserve(s)")
        assert int(client.recv(100)) == puppet.pid
    assert stat.S_IMODE(path.stat().st_mode) == 0o600, "the program answers every request there"
    assert path.stat().st_uid == os.geteuid()
    puppet.do("s.close()")
    puppet.end()
    kernel.fact(facts.Output, worker=1)
    assert not path.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_no_other_user_can_connect_to_the_socket_on_which_a_worker_is_checked(kernel: RealKernel) -> None:
    Puppet(kernel, 1, check=True)
    address = monitoring(kernel, 1).check.removeprefix("unix:")
    connect = (
        "import os, socket, sys\nos.setgroups([])\nos.setgid(65534)\nos.setuid(65534)\n"
        "name = sys.argv[1].replace('@', chr(0))\n"
        "try:\n socket.socket(socket.AF_UNIX).connect(name)\nexcept PermissionError:\n print('refused')\n"
    )
    shown = subprocess.run([sys.executable, "-c", connect, address], capture_output=True, text=True, check=True)
    assert shown.stdout == "refused\n"


def test_workers_that_come_and_go_leave_no_descriptor(kernel: RealKernel) -> None:
    def count() -> int:
        kernel.send(orders.InspectOutput(99))  # the helper answers after it has closed what it was given before
        kernel.fact(facts.OutputInspected, worker=99)
        return len(os.listdir(f"/proc/{kernel.process.pid}/fd"))

    Puppet(kernel, 1, check=True).end()
    kernel.fact(facts.Output, worker=1)
    before = count()
    for number in range(2, 8):
        Puppet(kernel, number, check=True).end()
        kernel.fact(facts.Output, worker=number)
    assert count() == before


def test_a_start_that_fails_leaves_no_socket_of_its_own(kernel: RealKernel) -> None:
    address = f"127.0.0.1:{free_port()}"
    kernel.send(orders.Listen(address))
    kernel.fact(facts.Listening, worker=None)
    puppet = Puppet(kernel, 1)
    puppet.settle()  # with the helper's socket
    before = sorted(os.listdir(f"/proc/{kernel.process.pid}/fd"))
    argv = [sys.executable, "-c", ""]
    for number, passed in ((2, [address, "127.0.0.1:9"]), (3, [address])):
        fields = {"cwd": "/", "label": "web.0", "share": "inherit", "inherit": passed, "private": True, "check": True}
        kernel.send(orders.Spawn(number, argv if number == 2 else ["/nonexistent"], {}, channel=True, **fields))  # type: ignore[arg-type]
        kernel.fact(facts.SpawnFailed, worker=number)
    puppet.settle()
    assert sorted(os.listdir(f"/proc/{kernel.process.pid}/fd")) == before


def test_it_is_known_whose_output_is_not_read(kernel: RealKernel) -> None:
    puppet = Puppet(kernel, 1)
    kernel.send(orders.InspectOutput(1))
    assert not kernel.fact(facts.OutputInspected, worker=1).blocked
    kernel.send(orders.InspectOutput(99))
    assert not kernel.fact(facts.OutputInspected, worker=99).blocked
    puppet.end()
