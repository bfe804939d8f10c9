"""Which processes the master would send a signal for a worker: only the worker's own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from cluster_service.master.process_stats import NotOfWorker, process_of_worker

if TYPE_CHECKING:
    from collections.abc import Iterator

HANDLED = signal.SIGUSR1
READY = f"""
import os, signal, sys
signal.signal({int(HANDLED)}, lambda *_: None)
"""
TREE = (
    READY
    + """
child = os.fork()
if child == 0:
    os.setsid()
    if os.fork():
        signal.pause()
    print(os.getpid(), flush=True)
sys.stdin.read()
"""
)
"""A worker whose grandchild has left its process group."""


class Started:
    """A process that has got as far as its first line."""

    def __init__(self, code: str, **how: Any) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, process_group=0, **how
        )
        assert self.process.stdout is not None
        self.said = int(self.process.stdout.readline())
        self.pid = self.process.pid

    def end(self) -> None:
        os.killpg(self.pid, signal.SIGKILL)
        with self.process:
            pass


@pytest.fixture
def started() -> Iterator[Any]:
    all_of_them: list[Started] = []

    def start(code: str, **how: Any) -> Started:
        all_of_them.append(Started(code, **how))
        return all_of_them[-1]

    yield start
    for each in all_of_them:
        if each.said != each.pid:
            os.kill(os.getpgid(each.said), signal.SIGKILL)
            os.kill(each.said, signal.SIGKILL)
        each.end()


ALONE = READY + "print(os.getpid(), flush=True)\nsys.stdin.read()\n"


def refusal(pid: int, worker: int, uid: int | None = None, *handles: int) -> str:
    uid = os.getuid() if uid is None else uid
    with (
        pytest.raises(NotOfWorker) as refused,
        process_of_worker(pid, worker=worker, uid=uid, handles=handles or (HANDLED,)),
    ):
        pass
    return str(refused.value)


def test_a_worker_and_what_descends_from_it_are_its_own(started: Any) -> None:
    worker = started(TREE)
    assert os.getpgid(worker.said) != worker.pid
    for pid in (worker.pid, worker.said):
        with process_of_worker(pid, worker=worker.pid, uid=os.getuid(), handles=(HANDLED,)) as pidfd:
            signal.pidfd_send_signal(pidfd, 0)


def test_any_other_process_is_refused(started: Any) -> None:
    worker, another = started(ALONE), started(ALONE)
    assert "older than the worker" in refusal(os.getpid(), worker.pid)
    assert "older than the worker" in refusal(1, worker.pid)
    assert "neither in the worker's process group nor a descendant" in refusal(another.pid, worker.pid)


def test_a_process_of_another_user_is_refused(started: Any) -> None:
    worker = started(ALONE)
    assert "another user" in refusal(worker.pid, worker.pid, os.getuid() + 1)


def test_a_process_that_the_signal_would_end_is_refused(started: Any) -> None:
    worker = started(ALONE)
    assert "does not handle" in refusal(worker.pid, worker.pid, None, HANDLED, signal.SIGUSR2)


def test_one_that_has_ended_is_refused(started: Any) -> None:
    worker, gone = started(ALONE), started(ALONE)
    os.kill(gone.pid, signal.SIGKILL)
    os.waitid(os.P_PID, gone.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and its pid is still its own
    how: dict[str, Any] = {"uid": os.getuid(), "handles": ()}
    with pytest.raises((ProcessLookupError, NotOfWorker)), process_of_worker(gone.pid, worker=gone.pid, **how):
        pass
    for pid in (0, -1, 1 << 22):
        with pytest.raises((OSError, ValueError)), process_of_worker(pid, worker=worker.pid, **how):
            pass
