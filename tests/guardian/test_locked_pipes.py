"""A process keeps its output pipe locked: neither the guardian nor the master nor other workers wait for it."""

from __future__ import annotations

import asyncio
import errno
import os
import sys
from typing import TYPE_CHECKING, Any

import pytest

from cluster_service.config import user_programs
from cluster_service.guardian.abandonable_calls import Calls
from cluster_service.guardian.helper_client import Answer
from cluster_service.guardian.log_sources import READ_PIPES, Discarder, Source
from cluster_service.machine.identity import OWN
from cluster_service.master import release_tests
from cluster_service.wire import facts, orders
from tests.contract.interface import DEADLINE

from .puppet import Puppet
from .test_hostile_binds import FAULT, needs_userfaultfd

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.contract.real import RealKernel

LOCK = (
    FAULT
    + """
first = ctypes.create_string_buffer(b"g" * 4095 + b"\\n", 4096)  # one page of the pipe: then it can be read
parts = ctypes.create_string_buffer(struct.pack("QQQQ", ctypes.addressof(first), 4096, page, 6), 32)
writer = threading.Thread(target=lambda: libc.writev(1, parts, 2))
writer.start()
while open(f"/proc/self/task/{writer.native_id}/syscall").read().split()[0] == "running":
    os.sched_yield()
"""
)


@needs_userfaultfd
def test_the_output_of_others_is_read(kernel: RealKernel) -> None:
    hostile, good = Puppet(kernel, 1), Puppet(kernel, 2)
    hostile.do(LOCK)
    good.do("os.write(1, b'first\\n')")
    assert kernel.wrote("cannot read output of web.1: a process that has the pipe open keeps it locked")
    assert kernel.wrote("[web.2] first\n")
    good.do("os.write(1, b'second\\n')")
    assert kernel.wrote("[web.2] second\n")
    hostile.do("resolve(b'later\\n')\nwriter.join()")
    assert kernel.wrote("[web.1] later\n"), "nothing of it is lost either"
    hostile.do("os.write(1, b'again\\n')")
    assert kernel.wrote("[web.1] again\n")


@needs_userfaultfd
def test_the_guardian_does_not_look_at_the_pipe_itself(kernel: RealKernel) -> None:
    hostile, good = Puppet(kernel, 1), Puppet(kernel, 2)
    hostile.do(LOCK)
    kernel.send(orders.InspectOutput(1))
    assert good.do("result = 7") == 7
    assert not kernel.fact(facts.OutputInspected, worker=1).blocked
    hostile.do("resolve(b'')\nwriter.join()")


@pytest.fixture
def program(tmp_path: Path) -> str:
    path = tmp_path / "program"
    path.write_text(f"#!{sys.executable}\nimport os, threading\n{LOCK}writer.join()\n")
    path.chmod(0o755)
    return str(path)


@needs_userfaultfd
def test_a_check_command_is_killed_when_its_time_is_over(program: str) -> None:
    why = asyncio.run(
        release_tests.run_command(
            [program], what="the check", cwd="/", env={}, within=1.0, on_line=lambda _line: None, identity=OWN
        )
    )
    assert why == "the check took longer than 1 s and was killed"


@needs_userfaultfd
def test_a_program_of_a_configuration_is_killed_when_its_time_is_over(program: str) -> None:
    with pytest.raises(user_programs.Late):
        user_programs.run_as(OWN, [program], cwd="/", env={}, seconds=1.0)


class Helper:
    """Runs duties here; the read of a locked pipe takes too long."""

    def __init__(self, discarder: Discarder, locked: int) -> None:
        self.discarder, self.locked = discarder, locked

    def ask(
        self, duty: str, values: dict[str, Any], descriptors: list[int], on_answer: Callable[[Answer], None]
    ) -> None:
        assert duty == READ_PIPES
        before = descriptors[: descriptors.index(self.locked)] if self.locked in descriptors else descriptors
        result = self.discarder.read(values, before)
        if self.locked in descriptors:
            self.discarder.note(len(before))
            on_answer(Answer({}, [], errno.ETIMEDOUT))
        else:
            on_answer(Answer(result.values, []))


def test_a_locked_pipe_is_left_alone_and_the_others_are_emptied() -> None:
    sources, writes = [], []
    for number in (1, 2, 3):
        (out, out_end), (err, err_end) = os.pipe(), os.pipe()
        os.set_blocking(out, False)
        os.set_blocking(err, False)
        sources.append(Source(number, f"web.{number}", out, err))
        writes += [out_end, err_end]
    ended: list[tuple[int, str]] = []
    discarder = Discarder(lambda source, stream: ended.append((source.number, stream)))
    helper: Any = Helper(discarder, sources[1].pipes["out"])
    discarder.round(sources, helper)
    os.write(writes[4], b"one\ntwo\n")
    os.close(writes.pop())
    discarder.round(sources, helper)
    assert ended == [(3, "err")]
    assert discarder.report() == ["2 lines of web.3 lost: no log writer read them"]
    for descriptor in [*writes, *(pipe for source in sources for pipe in source.pipes.values())]:
        os.close(descriptor)


def test_a_call_that_waits_is_left_to_its_thread() -> None:
    calls = Calls()
    out, end = os.pipe()
    waits = calls.run(os.read, out, 10, patience=0.0)
    assert not waits.is_done
    assert calls.run(len, b"four").result() == 4
    os.write(end, b"late")
    assert waits.wait(DEADLINE)
    assert waits.result() == b"late"
    os.close(out)
    os.close(end)
    failed = calls.run(os.read, out, 10)
    with pytest.raises(OSError, match="Bad file descriptor"):
        failed.result()
