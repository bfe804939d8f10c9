"""The ways the service ends: by signals, with and without a master, and by the guardian's own death."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import socket
from typing import TYPE_CHECKING, Any

import pytest

from cluster_service.machine import files
from cluster_service.wire import facts, orders
from tests.tools.ports import free_port
from tests.tools.processes import descendants, stat

from .puppet import Puppet
from .test_spawn import wait_for

if TYPE_CHECKING:
    from pathlib import Path

    from tests.contract.real import RealKernel

    from .conftest import Start

STUBBORN = "signal.signal(signal.SIGTERM, signal.SIG_IGN)"


@pytest.mark.parametrize(("number", "name"), [(signal.SIGTERM, "TERM"), (signal.SIGINT, "INT")])
def test_the_master_is_told_and_does_it(kernel: RealKernel, number: int, name: str) -> None:
    puppet = Puppet(kernel, 1)
    kernel.signal(number)
    assert kernel.fact(facts.Signalled).signal == name
    kernel.send(orders.Stopping())
    kernel.restart_master()  # in the middle of it
    kernel.send(orders.Hello())
    assert kernel.fact(facts.Snapshot).stopping
    kernel.send(orders.Stopping())
    kernel.send(orders.Signal(1, signal.SIGTERM, "stop"))
    assert kernel.fact(facts.Exited).signal == signal.SIGTERM
    kernel.send(orders.Bye(7))
    kernel.hang_up()
    assert kernel.wait() == 7
    assert stat(puppet.pid) is None


def test_hup_is_passed_on(kernel: RealKernel) -> None:
    kernel.signal(signal.SIGHUP)
    assert kernel.fact(facts.Signalled).signal == "HUP"


def test_hup_waits_for_a_master(kernel: RealKernel) -> None:
    kernel.hang_up()
    assert kernel.wrote("another is started now"), "it was seen to die"
    kernel.signal(signal.SIGHUP)
    kernel.connect()
    kernel.send(orders.Hello())
    kernel.fact(facts.Snapshot)
    assert kernel.fact(facts.Signalled).signal == "HUP"
    kernel.restart_master()
    kernel.send(orders.Hello())
    kernel.fact(facts.Snapshot)
    kernel.nothing_of(facts.Signalled)


def test_without_a_master_that_takes_it_on_the_guardian_drains_alone(start: Start) -> None:
    kernel = start({"stop_timeout": 0.5})
    port = free_port()
    gentle, stubborn = Puppet(kernel, 1), Puppet(kernel, 2)
    gentle.do(f"s = tcp('127.0.0.1', {port})")
    stubborn.do(STUBBORN + "\nif os.fork() == 0:\n while True: signal.pause()")
    os.kill(kernel.master_pid, signal.SIGSTOP)
    kernel.signal(signal.SIGTERM)
    assert kernel.fact(facts.Exited, worker=1).signal == signal.SIGTERM
    assert kernel.fact(facts.Exited, worker=2).signal == signal.SIGKILL
    assert kernel.wait() == 0
    assert kernel.wrote("does not take the shutdown on")
    assert kernel.wrote("killing what is left")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


def test_when_there_is_no_master_it_drains_at_once(start: Start) -> None:
    kernel = start({"master": {"argv": ["/nonexistent"], "cwd": "/", "env": {}}}, connect=False)
    kernel.connect()
    kernel.send(orders.Hello())
    kernel.fact(facts.Snapshot)
    puppet = Puppet(kernel, 1)
    pidfd = os.pidfd_open(kernel.master_pid)
    kernel.hang_up()  # the sixth death: the next start is more than a second away
    wait_for(pidfd)
    kernel.signal(signal.SIGTERM)
    assert kernel.wait() == 0
    assert stat(puppet.pid) is None


def test_the_time_of_a_shutdown_is_kept_by_the_guardian(kernel: RealKernel) -> None:
    puppet = Puppet(kernel, 1)
    puppet.do(STUBBORN)
    kernel.signal(signal.SIGTERM)
    kernel.fact(facts.Signalled)
    kernel.send(orders.Stopping(deadline=0.3))
    kernel.wait_for_hang_up()
    assert kernel.wait() == 0
    assert stat(puppet.pid) is None
    assert kernel.wrote("the time of the shutdown is over")


def test_a_second_signal_ends_it_at_once(kernel: RealKernel) -> None:
    puppet = Puppet(kernel, 1)
    puppet.do(STUBBORN)
    kernel.signal(signal.SIGTERM)
    kernel.fact(facts.Signalled)
    kernel.signal(signal.SIGTERM)  # the same one, as timeout(1) sends it: once to the process, once to its group
    kernel.send(orders.Stopping())
    assert kernel.stream is not None
    assert not select.select([kernel.stream], [], [], 0.3)[0]  # nothing happens, and the moment of grace is over
    kernel.signal(signal.SIGINT)
    kernel.wait_for_hang_up()
    assert kernel.wait() == 0
    assert stat(puppet.pid) is None
    assert kernel.wrote("a second")


def test_quit_ends_it_at_once(kernel: RealKernel) -> None:
    puppet = Puppet(kernel, 1)
    puppet.do(STUBBORN)
    kernel.signal(signal.SIGQUIT)
    kernel.wait_for_hang_up()
    assert kernel.wait() == 0
    assert stat(puppet.pid) is None


def test_bye_leaves_nothing(start: Start, run_dir: Path) -> None:
    lock = os.open(run_dir / "contract.lock", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    pid_file = run_dir / "the.pid"
    kernel = start({"lock_fd": lock, "pid_file": str(pid_file), "run_dir": str(run_dir)})
    os.close(lock)
    assert pid_file.read_text(encoding="ascii") == f"{kernel.process.pid}\n"
    puppets = [Puppet(kernel, number) for number in (1, 2, 3)]
    puppets[0].do(f"s = unix({str(run_dir / 'app.sock')!r})")
    puppets[1].do("if os.fork() == 0:\n os.setsid()\n signal.pause()")  # a daemon, outside of any group of ours
    kernel.send(orders.Listen(f"unix:{run_dir}/contract.sock", door=True, mode=0o600))
    kernel.fact(facts.Listening, worker=None)
    os.kill(puppets[2].pid, signal.SIGKILL)
    kernel.fact(facts.Exited, worker=3)
    everything = descendants(kernel.process.pid)
    assert len(everything) == 7  # two workers, a daemon, the master, the log writer, the cleaner and the helper
    kernel.send(orders.Bye())
    kernel.hang_up()
    assert kernel.wait() == 0
    assert [pid for pid in everything if stat(pid) is not None] == []
    assert list(run_dir.iterdir()) == []


def test_a_pid_file_that_is_anothers_by_now_is_left(start: Start, run_dir: Path) -> None:
    pid_file = run_dir / "the.pid"
    pid_file.symlink_to("/nonexistent/elsewhere")  # not written through
    kernel = start({"pid_file": str(pid_file)})
    assert not pid_file.is_symlink()
    pid_file.write_text("1\n", encoding="ascii")
    kernel.close()
    assert pid_file.read_text(encoding="ascii") == "1\n"
    pid_file.unlink()


def test_a_killed_guardian_takes_its_workers_along(kernel: RealKernel) -> None:
    port = free_port()
    puppet = Puppet(kernel, 1)
    puppet.do(f"s = tcp('127.0.0.1', {port})")
    everything = descendants(kernel.process.pid)
    pidfds = [os.pidfd_open(pid) for pid in everything]
    assert len(everything) == 5  # the worker, the master, the log writer, the cleaner and the helper
    kernel.process.kill()
    kernel.process.wait()
    for pidfd in pidfds:
        wait_for(pidfd)
    files.remove_all(os.environ["XDG_RUNTIME_DIR"], f"contract.{kernel.process.pid}")  # the master's part too
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


def hostile() -> None:
    for number in (0, 1, 2):
        os.close(number)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())


def test_a_hostile_start(start: Start) -> None:
    """Standard descriptors closed, signals ignored and blocked: put in order for us and for the workers."""
    kernel = start(prepare=hostile)
    puppet = Puppet(kernel, 1)
    assert puppet.do("result = sorted(int(n) for n in os.listdir('/proc/self/fd'))") == [0, 1, 2, 3, 4, 5]
    assert puppet.do("result = [int(signal.getsignal(n)) for n in (signal.SIGCHLD, signal.SIGTERM)]") == [0, 0]
    assert puppet.do("result = list(signal.pthread_sigmask(signal.SIG_BLOCK, []))") == []
    kernel.signal(signal.SIGTERM)
    kernel.fact(facts.Signalled)
    kernel.send(orders.Signal(1, signal.SIGTERM, "stop"))
    assert kernel.fact(facts.Exited).signal == signal.SIGTERM


def test_children_of_before_are_left_alone(start: Start) -> None:
    """What the process had started before it became the guardian is not ours to end."""
    pids: dict[str, Any] = {}
    a, b = os.pipe()

    def prepare() -> None:
        child = os.fork()
        if child == 0:
            os.closerange(0, 1000)
            signal.pause()
        os.write(b, str(child).encode())

    kernel = start(prepare=prepare)
    pids["child"] = int(os.read(a, 100))
    os.close(a)
    os.close(b)
    kernel.close()
    entry = stat(pids["child"])
    assert entry is not None
    assert entry.state not in "ZX"
    os.kill(pids["child"], signal.SIGKILL)
    os.waitpid(pids["child"], 0)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"pid_file": "/nonexistent/x.pid"}, "the pid file /nonexistent/x.pid cannot be written"),
        ({"log_file": "/nonexistent/x.log"}, "the log file /nonexistent/x.log cannot be opened"),
        ({"master": 5}, "without a proper boot message"),
    ],
)
def test_what_cannot_be_is_said_at_the_start(start: Start, arguments: dict[str, Any], said: str) -> None:
    kernel = start(arguments, connect=False)
    assert kernel.wait() == 1
    assert said in kernel.output()
