"""The guardian keeps a master, and tells the healthy from the hung."""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from cluster_service.guardian.master_supervisor import pause_after
from cluster_service.wire import facts, framing, orders
from tests.contract.real import RELAY
from tests.tools.processes import in_group, stat

from .puppet import Puppet
from .test_spawn import wait_for

if TYPE_CHECKING:
    from tests.contract.real import RealKernel

    from .conftest import Start


def hello(kernel: RealKernel) -> facts.Snapshot:
    kernel.send(orders.Hello())
    return kernel.fact(facts.Snapshot)


@pytest.mark.parametrize(("deaths", "pause"), [(0, 0), (1, 0), (2, 0.1), (3, 0.2), (5, 0.8), (9, 10), (1000, 10)])
def test_pauses(deaths: int, pause: float) -> None:
    assert pause_after(deaths) == pytest.approx(pause)


def test_what_a_master_finds(kernel: RealKernel) -> None:
    boot = kernel.boot_message
    assert (boot["name"], boot["settings"]) == ("contract", {"opaque": True})
    entry = stat(kernel.master_pid)
    assert entry is not None
    assert entry.group == kernel.master_pid
    assert entry.parent == kernel.process.pid
    assert os.readlink(f"/proc/{kernel.master_pid}/fd/0") == "/dev/null"
    with open(f"/proc/{kernel.master_pid}/environ", encoding="utf-8") as file:
        assert "CSERVICE_ROLE=master" in file.read().split("\0")


def test_a_killed_master_is_replaced_and_finds_the_workers(kernel: RealKernel) -> None:
    puppet = Puppet(kernel, 1)
    first = kernel.master_pid
    os.kill(first, signal.SIGKILL)
    kernel.restart_master()
    snapshot = hello(kernel)
    assert kernel.master_pid != first
    assert [state["pid"] for state in snapshot.workers] == [puppet.pid]
    assert kernel.wrote("was killed by SIGKILL")


def test_everything_that_a_master_had_sent_is_done_before_the_next_one_is_answered(kernel: RealKernel) -> None:
    kernel.signal(signal.SIGSTOP)
    for number in range(1, 40):
        kernel.send(orders.Note(f"note {number} " + "x" * 1000))
    kernel.send(orders.Spawn(1, ["/bin/sleep", "1000"], {}, "/", "web.1"))
    os.kill(kernel.master_pid, signal.SIGKILL)
    kernel.hang_up()
    kernel.signal(signal.SIGCONT)
    kernel.connect()
    snapshot = hello(kernel)
    assert snapshot.notebook.startswith("note 39 ")
    assert snapshot.last_worker == 1


def is_safe(kernel: RealKernel) -> bool:
    with open(f"/proc/{kernel.master_pid}/environ", encoding="utf-8") as file:
        return "SAFE=1" in file.read().split("\0")


def test_after_five_deaths_the_next_one_is_safe(kernel: RealKernel) -> None:
    for _ in range(4):
        kernel.restart_master()
        assert not hello(kernel).safe
        assert not is_safe(kernel)
    kernel.restart_master()
    snapshot = hello(kernel)
    assert snapshot.safe
    assert is_safe(kernel)
    assert snapshot.master_starts == 6
    assert kernel.wrote("safe mode")


def test_usr2_replaces_the_master_and_counts_no_death(kernel: RealKernel) -> None:
    puppet = Puppet(kernel, 1)
    for starts in range(2, 9):
        kernel.signal(signal.SIGUSR2)
        kernel.restart_master()
        snapshot = hello(kernel)
        assert (snapshot.master_starts, snapshot.safe) == (starts, False)
        assert [state["pid"] for state in snapshot.workers] == [puppet.pid]


def test_a_master_that_cannot_be_started_is_tried_again(start: Start) -> None:
    kernel = start({"master": {"argv": ["/nonexistent/master"], "cwd": "/", "env": {}}}, connect=False)
    kernel.connect()  # the safe one
    kernel.send(orders.Hello())
    assert kernel.fact(facts.Snapshot).safe
    assert kernel.wrote("no such program: /nonexistent/master")


def test_a_master_that_hangs_is_replaced(start: Start) -> None:
    kernel = start({"master_hang_timeout": 0.9})
    first = kernel.master_pid
    kernel.connect_next()
    assert hello(kernel).master_starts == 2
    assert kernel.master_pid != first
    assert kernel.wrote("has not answered")


def test_a_master_that_answers_is_left_alone_and_an_idle_one_is_not_disturbed(start: Start) -> None:
    kernel = start({"master_hang_timeout": 1.2})
    kernel.answer_pings = False
    begun = time.monotonic()
    for _ in range(4):
        kernel.fact(facts.Ping)
        kernel.send(orders.Pong())
    assert time.monotonic() - begun >= 4 * 0.4 * 0.9  # at most one in each third of the time
    assert hello(kernel).master_starts == 1


def test_a_guardian_that_was_stopped_blames_nobody(start: Start) -> None:
    kernel = start({"master_hang_timeout": 0.9})
    kernel.answer_pings = False
    kernel.fact(facts.Ping)  # asked, and not answered before the guardian itself is stopped
    kernel.signal(signal.SIGSTOP)
    assert not select.select([kernel.door], [], [], 1.5)[0]
    kernel.signal(signal.SIGCONT)
    kernel.fact(facts.Ping)  # asked again: its time begins anew
    kernel.send(orders.Pong())
    assert hello(kernel).master_starts == 1


def test_a_master_that_does_not_read_is_replaced(start: Start) -> None:
    """The bound on what waits for it is reached by answers that it does not take."""
    kernel = start()
    kernel.send(orders.Note("x" * (8 * 1024 * 1024)))
    for _ in range(4):
        kernel.send(orders.Hello())
    kernel.connect_next()
    assert hello(kernel).master_starts == 2
    assert kernel.wrote("does not read")


def test_a_master_that_talks_nonsense_is_replaced(kernel: RealKernel) -> None:
    assert kernel.stream is not None
    kernel.stream.sendall(b"\xff" * 100)
    kernel.connect_next()
    assert hello(kernel).master_starts == 2
    assert kernel.wrote("no message")


def test_a_worker_that_talks_too_much_costs_the_master_nothing(kernel: RealKernel) -> None:
    puppet = Puppet(kernel, 1)
    pidfd = os.pidfd_open(puppet.pid)
    puppet.tell('for n in range(2000): channel.send(b\'{"type": "x", "y": "%s"}\' % (b\'x\' * 20000))\nos._exit(0)')
    wait_for(pidfd)  # all the time without reading a word
    kernel.fact(facts.Exited)
    assert 50 <= len(kernel.pending) < 500
    assert hello(kernel).master_starts == 1


def test_a_master_of_the_next_version_is_understood(kernel: RealKernel) -> None:
    assert kernel.stream is not None
    kernel.stream.sendall(framing.encode({"type": "note", "text": "kept", "colour": "blue"}))
    kernel.stream.sendall(framing.encode({"type": "dance"}))
    assert "dance" in kernel.fact(facts.Refused, order="dance").why
    assert hello(kernel).notebook == "kept"


def test_what_a_master_was_running_ends_with_it(start: Start, run_dir: Any) -> None:
    script = run_dir / "master.py"
    script.write_text(
        "import os, runpy, subprocess, sys\n"
        "subprocess.Popen(['/bin/sleep', '1000'], close_fds=True)\n"
        f"sys.argv = {json.dumps([str(RELAY)])} + sys.argv[1:]\n"
        f"runpy.run_path({json.dumps(str(RELAY))}, run_name='__main__')\n",
        encoding="utf-8",
    )
    kernel = start(master=[sys.executable, str(script)])
    (pid,) = [pid for pid in in_group(kernel.master_pid) if pid != kernel.master_pid]
    pidfd = os.pidfd_open(pid)
    os.kill(kernel.master_pid, signal.SIGKILL)
    wait_for(pidfd)
    kernel.restart_master()
    script.unlink()
