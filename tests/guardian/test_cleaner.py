"""What is left when the guardian is killed: nothing of the service's, and everything that is not the service's."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

import pytest

from cluster_service.guardian import reaping
from cluster_service.guardian.cleaner import Leftovers, clean_up
from cluster_service.guardian.holdings import Held, Holdings, Known, Numbers
from cluster_service.wire import facts, orders
from cluster_service.wire.addresses import parse
from tests.contract.interface import DEADLINE
from tests.tools.ports import free_port
from tests.tools.processes import children_of, descendants, stat

from .puppet import Puppet
from .test_spawn import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.contract.real import RealKernel

    from .conftest import Start

DAEMON = """
r, w = os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork():
        os._exit(0)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    os.write(w, str(os.getpid()).encode())
    os.close(w)
    {then}
    signal.pause()
    os._exit(0)
os.close(w)
result = int(os.read(r, 100))
os.wait()
"""
"""A daemon: it has left its group and session, its parent is gone, and it ignores what asks it to end."""

BARE = "os.execve('/usr/bin/env', ['env', '-i', '/bin/sh', '-c', 'trap \"\" TERM; while :; do sleep 1000; done'], {})"
"""The same, with no environment."""


def end(kernel: RealKernel) -> list[int]:
    """SIGKILL the guardian; return pidfds of everything that descended from it."""
    pidfds = [os.pidfd_open(pid) for pid in descendants(kernel.process.pid)]
    kernel.process.kill()
    kernel.process.wait()
    return pidfds


def cleaner_of(kernel: RealKernel) -> int:
    return next(pid for pid in children_of(kernel.process.pid) if b"cleaner" in command(pid))


def command(pid: int) -> bytes:
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        return file.read()


@pytest.mark.parametrize("share", ["seccomp", "python", "none"])
def test_a_daemon_that_ignores_sigterm_ends_with_its_service(start: Start, share: str) -> None:
    kernel = start({"stop_timeout": 0.5})
    port = free_port()
    puppet = Puppet(kernel, 1, share=share)
    puppet.do(f"s = tcp('127.0.0.1', {port})")
    puppet.do(DAEMON.format(then=""))
    for pidfd in end(kernel):
        wait_for(pidfd)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


def test_one_without_an_environment_is_known_by_the_port_that_it_holds(start: Start) -> None:
    kernel = start({"stop_timeout": 0.5})
    port = free_port()
    puppet = Puppet(kernel, 1)
    puppet.do(f"s = tcp('127.0.0.1', {port})")
    puppet.do(DAEMON.format(then="s.set_inheritable(True); " + BARE))
    for pidfd in end(kernel):
        wait_for(pidfd)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL])
def test_no_master_is_needed_and_none_is_left(start: Start, number: int) -> None:
    """A master that is stopped, or killed together with the guardian."""
    kernel = start({"stop_timeout": 0.5})
    Puppet(kernel, 1).do(DAEMON.format(then=""))
    family = [os.pidfd_open(pid) for pid in descendants(kernel.process.pid)]
    os.kill(kernel.process.pid, signal.SIGSTOP)  # so that no further master is started
    os.kill(kernel.master_pid, number)
    for pidfd in [*family, *end(kernel)]:
        wait_for(pidfd)


def test_a_worker_has_its_time(start: Start) -> None:
    kernel = start({"stop_timeout": DEADLINE})
    puppet = Puppet(kernel, 1)
    puppet.do("signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM]); os.write(2, b'hello\\n')")
    assert kernel.wrote("hello"), "the log writer has the pipes: a guardian that dies before takes them along"
    puppet.tell("signal.sigwait([signal.SIGTERM]); os.write(2, b'goodbye\\n'); os._exit(0)")
    kernel.send(orders.Hello())
    kernel.fact(facts.Snapshot)  # by now the guardian has passed on what the worker is to do
    for pidfd in end(kernel):
        wait_for(pidfd)
    assert kernel.wrote("goodbye")
    assert kernel.wrote("the guardian has died: ending the workers")


def test_another_cleaner_follows_one_that_dies(start: Start) -> None:
    kernel = start({"stop_timeout": 0.5})
    puppet = Puppet(kernel, 1)
    daemon = puppet.do(DAEMON.format(then=""))
    first = cleaner_of(kernel)
    os.kill(first, signal.SIGKILL)
    end_by = time.monotonic() + DEADLINE
    while not [pid for pid in children_of(kernel.process.pid) if pid != first and b"cleaner" in command(pid)]:
        assert time.monotonic() < end_by
        kernel.nothing_of(type(None))
    for pidfd in end(kernel):
        wait_for(pidfd)
    assert stat(daemon) is None or stat(daemon).state == "Z"  # type: ignore[union-attr]


def test_an_ordinary_end_needs_no_cleaner(start: Start) -> None:
    kernel = start()
    pidfd = os.pidfd_open(cleaner_of(kernel))
    kernel.send(orders.Bye())
    kernel.hang_up()
    assert kernel.wait() == 0
    wait_for(pidfd)


# what is not the service's


@pytest.fixture
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    """A child of this process, as what a dead guardian leaves is for a cleaner that this process is."""
    with subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"]) as process:
        yield process
        process.kill()


def leftovers(known: Known, marker: bytes = b"CSERVICE_INSTANCE=of this test", since: int = 0) -> Leftovers:
    found = Leftovers(known, marker, since, lambda _line: None)
    found._parent = os.getpid()
    return found


def ours(found: Leftovers) -> set[int]:
    with ExitStack() as stack:
        found._look()
        for pidfd in found._ours.values():
            stack.callback(os.close, pidfd)
        return {pid for pid, _ in found._ours}


def test_nothing_is_ended_that_is_not_proven_to_be_ours(stranger: subprocess.Popen[bytes]) -> None:
    nothing = Known(Numbers(), Numbers(), Numbers())
    assert stranger.pid not in ours(leftovers(nothing))
    in_group = Known(Numbers(), Numbers(), Numbers())
    in_group.groups.add(os.getpgid(stranger.pid))
    assert stranger.pid in ours(leftovers(in_group))
    process = reaping.look(stranger.pid)
    assert process is not None
    assert stranger.pid not in ours(leftovers(in_group, since=process.start + 1)), "older than the service"


def test_the_marker_is_a_whole_variable() -> None:
    how = {"CSERVICE_INSTANCE": "abc", "X": "CSERVICE_INSTANCE=ab"}
    program = [sys.executable, "-c", "import signal; print(flush=True); signal.pause()"]
    with subprocess.Popen(program, env={**os.environ, **how}, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        known = Known(Numbers(), Numbers(), Numbers())
        assert process.pid in ours(leftovers(known, b"CSERVICE_INSTANCE=abc"))
        assert process.pid not in ours(leftovers(known, b"CSERVICE_INSTANCE=ab"))
        process.kill()


def test_an_environment_that_cannot_be_read_holds_nothing_up(
    stranger: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading another's memory can block; here the reader is stopped, which is all that the cleaner sees of it."""
    found = leftovers(Known(Numbers(), Numbers(), Numbers()))
    process = reaping.look(stranger.pid)
    assert process is not None
    fork, readers = os.fork, []

    def stopped() -> int:
        pid = fork()
        if pid == 0:
            os.kill(os.getpid(), signal.SIGSTOP)
        readers.append(pid)
        return pid

    monkeypatch.setattr(os, "fork", stopped)
    began = time.monotonic()
    assert found._marked([(stranger.pid, process.start)]) == set()
    assert time.monotonic() - began < DEADLINE
    with suppress(ChildProcessError):  # it was killed
        os.waitpid(readers[0], 0)


def test_a_socket_that_was_passed_to_the_service_proves_nothing() -> None:
    """It is held by the service manager too."""
    holdings = Holdings(1, 0.0)
    with socket.socket() as one, socket.socket() as other:
        inodes = [os.fstat(sock.fileno()).st_ino for sock in (one, other)]
        address = parse("127.0.0.1:1")
        holdings.add_held(Held(address, "a", one, inodes[0], given="web"))
        holdings.add_held(mine := Held(address, "b", other, inodes[1]))
        assert holdings.known.sockets.read() == {inodes[1]}
        holdings.drop_held(mine)
        assert holdings.known.sockets.read() == set()


# numbers


def test_numbers_are_seen_by_another_process() -> None:
    numbers = Numbers()
    for number in range(1, 100):
        numbers.add(number)
    numbers.add(7)
    read, write = os.pipe()
    other = os.fork()
    if other == 0:
        os.read(read, 1)
        os._exit(0 if numbers.read() == {*range(1, 50), 200} else 1)
    for number in range(50, 100):
        numbers.discard(number)
    numbers.discard(12345)
    numbers.add(200)
    os.write(write, b"x")
    assert os.waitpid(other, 0)[1] == 0
    os.close(read)
    os.close(write)


def test_more_numbers_than_there_is_room_for() -> None:
    numbers = Numbers()
    for number in range(1, 20000):
        numbers.add(number)
    for number in range(1, 20000):
        numbers.discard(number)
    assert numbers.read() == set()
    numbers.add(5)
    assert numbers.read() == {5}


# files


def test_the_files_of_another_service_are_left(run_dir: Path) -> None:
    names = ["web.sock", ".web.sock.cservice", "web.lock"]
    for name in names:
        (run_dir / name).touch()
    with (run_dir / "web.lock").open("rb+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        clean_up(str(run_dir), "web")
        assert sorted(os.listdir(run_dir)) == sorted(names)
    clean_up(str(run_dir), "web")
    assert os.listdir(run_dir) == []
    clean_up(str(run_dir), "web")
    os.mkfifo(run_dir / "web.lock")
    clean_up(str(run_dir), "web")  # returns
    clean_up("", "web")


# the guardian's own looks at other processes


def test_an_empty_group_costs_no_look_at_other_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """300 workers that end are 300 groups that are empty."""
    with subprocess.Popen([sys.executable, "-c", ""], process_group=0) as process:
        process.wait()
    monkeypatch.setattr(reaping, "processes", lambda: pytest.fail("it has walked /proc"))
    assert not reaping.signal_group(process.pid, signal.SIGTERM, leader_lives=False)
