"""A guardian that may have no more descriptors, processes or memory: it says so, goes on, and recovers."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

from cluster_service.machine.shortage import NO_PROCESS, SENTENCES
from cluster_service.wire import facts, orders
from tests.contract.interface import DEADLINE
from tests.tools import ask
from tests.tools.ports import free_port
from tests.tools.processes import children_of, log_writer_of
from tests.tools.shortage import GROUPS, limited, no_processes, room_for, size_of

from .puppet import Puppet

if TYPE_CHECKING:
    from tests.contract.real import RealKernel


def descriptors(pid: int) -> list[str]:
    """What *pid* has open, without the numbers that the kernel gives each."""
    return sorted(os.readlink(entry).partition(":")[0] for entry in Path(f"/proc/{pid}/fd").iterdir())


def writer(kernel: RealKernel) -> int:
    """The pid of the log writer, while there are no workers."""
    pid = log_writer_of(kernel.process.pid)
    assert pid is not None
    return pid


def spawn(kernel: RealKernel, number: int, script: str) -> None:
    fields: dict[str, Any] = {"env": {"PATH": os.environ["PATH"]}, "cwd": "/", "label": f"web.{number}"}
    kernel.send(orders.Spawn(number, ["/bin/sh", "-c", script], **fields))


def either(kernel: RealKernel, *kinds: type[Any], worker: int) -> Any:
    """The next fact of one of these *kinds*."""
    end = time.monotonic() + DEADLINE
    while True:
        for fact in kernel.pending:
            if isinstance(fact, kinds) and fact.worker == worker:
                kernel.pending.remove(fact)
                return fact
        assert kernel.read(end), f"none of {kinds} came; there were: {kernel.pending}\n{kernel.output()}"


def test_without_descriptors_it_is_all_or_nothing(kernel: RealKernel) -> None:
    """However many are left: a worker that is not, one whose port is shared, or one that is told why it is not."""
    guardian, port, said = kernel.process.pid, free_port(), set()
    first = Puppet(kernel, 1)
    first.settle()  # with the helper's socket
    before = descriptors(guardian)
    for number in range(2, 27):
        with limited(guardian, resource.RLIMIT_NOFILE, room_for(guardian, number - 1)):
            code = f"keep = tcp('127.0.0.1', {port})\nserve(keep)"
            try:
                puppet = Puppet(cast("RealKernel", _Trying(kernel)), number)
            except Failed as failed:
                said.add(str(failed))
                continue
            puppet.tell(code)
            fact = either(kernel, facts.Listening, facts.ListenFailed, worker=number)
            if isinstance(fact, facts.Listening):
                assert ask.raw_pid(("127.0.0.1", port)) == puppet.pid
                assert puppet.answer()["type"] == "done"
            else:
                said.add(fact.error)
                assert puppet.answer()["errno"] == errno.EMFILE
        puppet.end()
        kernel.fact(facts.Output, worker=number)
        kernel.send(orders.Forget(number))
        kernel.send(orders.Close(f"127.0.0.1:{port}"))
    assert said
    assert all(SENTENCES[errno.EMFILE] in sentence for sentence in said), said
    assert isinstance(fact, facts.Listening), "there was room for the last one"
    kernel.nothing_of(facts.Refused)
    first.settle()
    assert descriptors(guardian) == before


class Failed(Exception):
    """The worker could not be started, and why."""


class _Trying:
    """A kernel for a puppet that may not come to be."""

    def __init__(self, kernel: RealKernel) -> None:
        self.kernel = kernel

    def __getattr__(self, name: str) -> Any:
        return getattr(self.kernel, name)

    def fact(self, kind: type[Any], **match: Any) -> Any:
        if kind is not facts.Spawned:
            return self.kernel.fact(kind, **match)
        fact = either(self.kernel, facts.Spawned, facts.SpawnFailed, **match)
        if isinstance(fact, facts.SpawnFailed):
            raise Failed(fact.error)
        return fact


def test_a_log_writer_without_descriptors_gets_the_pipe_later(kernel: RealKernel) -> None:
    pid = writer(kernel)
    kernel.send(orders.Log("it is up, and has raised its limit"))
    assert kernel.wrote("has raised its limit")
    with limited(pid, resource.RLIMIT_NOFILE, room_for(pid, 0)):
        spawn(kernel, 1, "echo hello; echo there >&2; exec sleep 3600")
        kernel.fact(facts.Spawned, worker=1)
        assert kernel.wrote("the log writer cannot read all that is written: the process has no descriptor left")
        assert "hello" not in kernel.output()
    assert kernel.wrote("[web.1] hello")
    assert kernel.wrote("[web.1] there")
    assert pid in children_of(kernel.process.pid), "it is the same one"


def test_a_door_that_cannot_be_handed_over_is_told(kernel: RealKernel) -> None:
    guardian, door = kernel.process.pid, f"127.0.0.1:{free_port()}"
    for more in range(3):
        with limited(guardian, resource.RLIMIT_NOFILE, room_for(guardian, more)):
            kernel.send(orders.Listen(door, door=True))
            end = time.monotonic() + DEADLINE
            while not (told := [each for each in kernel.pending if isinstance(each, facts.ListenFailed)]):
                if any(isinstance(each, facts.Listening) for each in kernel.pending):
                    return  # there was room after all: the kernel asks for fewer than we thought
                assert kernel.read(end)
            kernel.pending.clear()
            assert SENTENCES[errno.EMFILE] in told[0].error
    kernel.send(orders.Listen(door, door=True))
    assert kernel.fact(facts.Listening).descriptor


@pytest.mark.skipif(not GROUPS, reason="needs root and control groups of processes")
def test_without_processes_it_waits_and_nobody_is_blamed(kernel: RealKernel) -> None:
    spawn(kernel, 1, "exec sleep 3600")
    worker = kernel.fact(facts.Spawned, worker=1).pid
    with no_processes(kernel.process.pid):
        spawn(kernel, 2, "exec sleep 3600")
        assert kernel.fact(facts.SpawnFailed, worker=2).error == NO_PROCESS
        kernel.hang_up()
        assert kernel.wrote(f"the master cannot be started, and the workers go on: {NO_PROCESS}; it is tried again")
    kernel.connect()
    kernel.send(orders.Hello())
    snapshot = kernel.fact(facts.Snapshot)
    assert ([each["pid"] for each in snapshot.workers], snapshot.safe) == ([worker], False)
    spawn(kernel, 3, "exit 0")
    kernel.fact(facts.Exited, worker=3)


def test_without_memory_it_goes_on(kernel: RealKernel) -> None:
    guardian = kernel.process.pid
    for number in (1, 2):
        spawn(kernel, number, "exec sleep 3600")
    pids = [kernel.fact(facts.Spawned, worker=number).pid for number in (1, 2)]
    with limited(guardian, resource.RLIMIT_AS, size_of(guardian)):
        spawn(kernel, 3, "exit 0")
        os.kill(pids[0], signal.SIGKILL)
        assert kernel.wrote(f"the guardian could not do something, and tries again: {SENTENCES[errno.ENOMEM]}")
    assert kernel.fact(facts.Exited, worker=1).signal == signal.SIGKILL
    kernel.fact(facts.Exited, worker=3)
    kernel.send(orders.Signal(2, signal.SIGTERM, "stop"))
    assert kernel.fact(facts.Exited, worker=2).signal == signal.SIGTERM


def test_a_memory_file_needs_one_descriptor_and_is_not_left_open_when_it_cannot_be_written() -> None:
    program = """
import os, resource
from cluster_service.guardian.syscalls import memory_file
free = os.dup(0)
os.close(free)
resource.setrlimit(resource.RLIMIT_NOFILE, (free + 1, free + 1))
assert memory_file("last", b"content") == free
assert os.pread(free, 100, 0) == b"content"
os.close(free)
resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))
try:
    memory_file("large", b"x" * 100)
except OSError:
    assert os.dup(0) == free
    print("it is free again")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout == "it is free again\n", done.stderr
