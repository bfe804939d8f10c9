"""The end of a worker is reported also if a tracer withholds it from the guardian."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

from cluster_service.wire import facts, orders
from tests.tools.processes import stat
from tests.tools.tracing import STOP_AT_EXIT, TRACER, why_forbidden

from .puppet import Puppet

if TYPE_CHECKING:
    from tests.contract.real import RealKernel

THREAD = """
started = threading.Event()
def wait():
    ids.append(threading.get_native_id())
    started.set()
    signal.pause()
ids = []
threading.Thread(target=wait, daemon=True).start()
started.wait()
result = ids[0]
"""


def load(puppet: Puppet) -> None:
    puppet.do(f"exec({TRACER!r}, globals())")


@pytest.fixture(autouse=True)
def _allowed() -> None:
    why = why_forbidden()
    if why:
        pytest.skip(f"ptrace is forbidden here: {why}")


@pytest.mark.parametrize("options", [0, STOP_AT_EXIT], ids=["seized", "stopped at its exit"])
@pytest.mark.parametrize("traced", ["first thread", "other thread"])
def test_a_killed_worker_is_reported(kernel: RealKernel, traced: str, options: int) -> None:
    puppet = Puppet(kernel, 1)
    load(puppet)
    thread = puppet.pid if traced == "first thread" else puppet.do(THREAD)
    tracer = puppet.do(f"result = trace({thread}, {options})")
    os.kill(puppet.pid, signal.SIGKILL)
    assert kernel.fact(facts.Exited, worker=1).signal == signal.SIGKILL
    assert kernel.wrote(f"cannot reap web.1 (pid {puppet.pid}): process {tracer} traces it; killed it")
    entry = stat(tracer)
    assert entry is None or entry.state in "ZX"


def test_a_worker_that_exits_by_itself_is_reported(kernel: RealKernel) -> None:
    puppet = Puppet(kernel, 1)
    load(puppet)
    puppet.do(f"result = trace({puppet.pid}, 0)")
    puppet.tell("os._exit(3)")
    assert kernel.fact(facts.Exited, worker=1).code == 3


def test_a_worker_that_is_stopped_at_its_exit_can_be_killed(kernel: RealKernel) -> None:
    puppet = Puppet(kernel, 1)
    load(puppet)
    puppet.do(f"result = trace({puppet.pid}, {STOP_AT_EXIT})")
    puppet.tell("os._exit(3)")
    kernel.send(orders.Signal(1, signal.SIGKILL, "kill"))
    kernel.fact(facts.Exited, worker=1)


def test_a_worker_that_traces_another_is_killed(kernel: RealKernel) -> None:
    victim, tracer = Puppet(kernel, 1), Puppet(kernel, 2)
    load(tracer)
    tracer.do(
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        f"if libc.ptrace(0x4206, {victim.pid}, None, None): raise OSError(ctypes.get_errno(), 'ptrace')"
    )
    os.kill(victim.pid, signal.SIGKILL)
    assert kernel.fact(facts.Exited, worker=2).signal == signal.SIGKILL
    assert kernel.fact(facts.Exited, worker=1).signal == signal.SIGKILL
