"""What a worker leaves when its first process has ended: it is asked to end, has its time, and is killed after it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from cluster_service.guardian import reaping
from cluster_service.wire import facts, orders
from tests.tools.processes import stat

from .puppet import Puppet

if TYPE_CHECKING:
    from tests.contract.real import RealKernel

    from .conftest import Start

CHILD = """
import signal, socket, sys
there = socket.socket(socket.AF_UNIX)
there.connect("\\0" + sys.argv[1])
numbers = {signal.SIGTERM, signal.SIGQUIT}
signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
there.send(b"up")
while True:
    there.send(signal.Signals(signal.sigwait(numbers)).name.encode())
    if sys.argv[2] == "gentle":
        there.recv(1)
        break
"""
"""Reports each signal; a gentle one ends once it has been answered."""

PLACES = {
    "in its group": "if os.fork() == 0: become()",
    "in a session of its own": "if os.fork() == 0:\n os.setsid()\n become()",
    "in the background": "if os.fork() == 0:\n os.setsid()\n if os.fork() == 0: become()\n os._exit(0)\nos.wait()",
    "below one that ends": "if os.fork() == 0:\n if os.fork() == 0: become()\n signal.pause()",
}
"""Where the child stands. Its environment is empty in each case."""


class Child:
    """The child of *puppet*, at *place*."""

    def __init__(self, puppet: Puppet, place: str, manner: str) -> None:
        with closing(socket.socket(socket.AF_UNIX)) as listener:
            name = f"remains-{os.getpid()}-{puppet.pid}"
            listener.bind("\0" + name)
            listener.listen()
            argv = [sys.executable, "-I", "-S", "-c", CHILD, name, manner]
            puppet.tell(f"def become(): os.execve({sys.executable!r}, {argv!r}, {{}})\n{PLACES[place]}")
            listener.settimeout(20)
            self.connection = listener.accept()[0]
        self.connection.settimeout(20)
        assert self.reads() == "up"
        puppet.answer()

    def reads(self) -> str:
        """The next signal that it got; empty: it has ended."""
        return self.connection.recv(100).decode()

    def let_go(self) -> None:
        """Let a gentle one end."""
        self.connection.send(b"1")


@pytest.fixture
def puppet(kernel: RealKernel) -> Puppet:
    return Puppet(kernel, 1, stop_signal=signal.SIGQUIT)


@pytest.mark.parametrize("place", PLACES)
def test_what_is_left_is_asked_and_has_its_time(kernel: RealKernel, puppet: Puppet, place: str) -> None:
    with closing(Child(puppet, place, "gentle").connection) as connection:
        kernel.send(orders.Signal(1, signal.SIGQUIT, "stop"))
        left = kernel.fact(facts.Exited, worker=1).left
        assert left == (2 if place == "below one that ends" else 1)
        kernel.send(orders.Signal(1, signal.SIGKILL, "sweep", whole_group=True, after=600))
        assert connection.recv(100) == b"SIGQUIT"
        kernel.nothing_of(facts.Swept)
        connection.send(b"1")
        assert connection.recv(100) == b""
        background = kernel.fact(facts.Swept, worker=1).background
        assert bool(background) == (place in ("in a session of its own", "in the background"))
    kernel.nothing_of(facts.Refused)


@pytest.mark.parametrize("place", PLACES)
def test_what_does_not_end_is_killed(kernel: RealKernel, puppet: Puppet, place: str) -> None:
    with closing(Child(puppet, place, "stubborn").connection) as connection:
        os.kill(puppet.pid, signal.SIGKILL)
        assert kernel.fact(facts.Exited, worker=1).left
        kernel.send(orders.Signal(1, signal.SIGKILL, "sweep", whole_group=True, after=0.3))
        assert connection.recv(100) == b"SIGQUIT", "asked first"
        assert connection.recv(100) == b""
        kernel.fact(facts.Swept, worker=1)
    assert kernel.wrote("had left processes, which were killed")


def test_a_port_that_the_next_worker_needs_is_free_at_once(kernel: RealKernel) -> None:
    puppet = Puppet(kernel, 1, share="none")
    with closing(Child(puppet, "in its group", "stubborn").connection) as connection:
        os.kill(puppet.pid, signal.SIGKILL)
        kernel.fact(facts.Exited, worker=1)
        kernel.send(orders.Signal(1, signal.SIGKILL, "sweep", whole_group=True, after=600))
        assert connection.recv(100) == b"", "not asked first"
        kernel.fact(facts.Swept, worker=1)


def test_a_new_master_finds_out_what_is_left(kernel: RealKernel, puppet: Puppet) -> None:
    with closing(Child(puppet, "in the background", "gentle").connection) as connection:
        kernel.send(orders.Signal(1, signal.SIGQUIT, "stop"))
        kernel.fact(facts.Exited, worker=1)
        kernel.restart_master()
        kernel.send(orders.Hello())
        (state,) = kernel.fact(facts.Snapshot).workers
        assert state["left"] == 1
        kernel.send(orders.Signal(1, signal.SIGKILL, "sweep", whole_group=True, after=600))
        assert connection.recv(100) == b"SIGQUIT"
        connection.send(b"1")
        kernel.fact(facts.Swept, worker=1)


def test_other_workers_keep_what_they_have_put_into_the_background(kernel: RealKernel) -> None:
    one, other = Puppet(kernel, 1), Puppet(kernel, 2)
    with closing(Child(other, "in the background", "gentle").connection) as connection:
        os.kill(one.pid, signal.SIGKILL)
        assert kernel.fact(facts.Exited, worker=1).left == 0
        kernel.send(orders.Signal(1, signal.SIGKILL, "sweep", whole_group=True))
        other.do("pass")
        connection.setblocking(False)
        with pytest.raises(BlockingIOError):
            connection.recv(100)


@pytest.mark.parametrize("place", PLACES)
def test_a_guardian_that_drains_alone_gives_it_the_stop_timeout(start: Start, place: str) -> None:
    kernel = start({"stop_timeout": 600.0})
    puppet = Puppet(kernel, 1, stop_signal=signal.SIGQUIT)
    with closing(Child(puppet, place, "gentle").connection) as connection:
        os.kill(kernel.master_pid, signal.SIGSTOP)
        kernel.signal(signal.SIGTERM)
        assert kernel.fact(facts.Exited, worker=1).signal == signal.SIGQUIT
        assert connection.recv(100) == b"SIGQUIT"
        connection.send(b"1")
        assert connection.recv(100) == b""
    assert kernel.wait() == 0


def test_the_cleaner_sends_the_stop_signal(kernel: RealKernel, puppet: Puppet) -> None:
    with closing(Child(puppet, "in its group", "gentle").connection) as connection:
        kernel.signal(signal.SIGKILL)
        assert connection.recv(100) == b"SIGQUIT"
        connection.send(b"1")
        assert connection.recv(100) == b""


HEADLESS = """
import ctypes, sys, threading, time
threading.Thread(target=time.sleep, args=(1000,)).start()
ctypes.CDLL(None).syscall(int(sys.argv[1]), 0)
"""
EXIT = {"x86_64": "60", "aarch64": "93"}
"""The number of exit(2), which ends one thread, by machine."""


@pytest.mark.skipif(os.uname().machine not in EXIT, reason="the number of exit(2) is not known for this machine")
def test_a_process_whose_first_thread_has_ended_lives_until_the_last_one_has() -> None:
    with subprocess.Popen([sys.executable, "-c", HEADLESS, EXIT[os.uname().machine]]) as child:
        while (entry := stat(child.pid)) is not None and entry.state != "Z":
            os.sched_yield()
        found = reaping.look(child.pid)
        assert found is not None
        assert not found.zombie
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        found = reaping.look(child.pid)
        assert found is not None
        assert found.zombie
