"""After every test nothing is left: no process, no descriptor, no listening port, no file in the run directory.

A port is held by a descriptor and a descriptor by a process, so it is enough to look at the descriptors of this process
and to see that it has no descendants. Orphans are not missed: this process makes itself a child subreaper, so whatever
loses its parent becomes its child. Nobody sleeps: a process that is about to end is met at its pidfd.
"""

from __future__ import annotations

import ctypes
import gc
import os
import select
import shutil
import signal
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.tools.processes import children, descendants, describe

if TYPE_CHECKING:
    from collections.abc import Iterator

GRACE = 10.0
"""Seconds in which what a test has asked to end may do so. Only a leak uses them up."""

PR_SET_CHILD_SUBREAPER = 36


def pytest_configure() -> None:
    """Make orphans of the tests' processes children of this one, and have those hear SIGINT though this runs in the
    background, where a shell has it ignored.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def descriptors() -> dict[int, str]:
    """What this process holds open, by number."""
    held = {}
    for entry in Path("/proc/self/fd").iterdir():
        try:
            held[int(entry.name)] = str(entry.readlink())
        except FileNotFoundError:  # the one that listed the directory
            continue
    return held


def wait_for_the_end(pids: list[int]) -> None:
    """Return when all of *pids* have ended, and after ``GRACE`` seconds at most."""
    end = time.monotonic() + GRACE
    for pid in pids:
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            select.select([pidfd], [], [], max(0.0, end - time.monotonic()))
        finally:
            os.close(pidfd)


def reap() -> None:
    """Collect the orphans that became this process's children, and children that nobody waited for."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def processes_left() -> list[str]:
    """End what is left of the test's processes and return a line on each."""
    left: list[str] = []
    while living := descendants(os.getpid()):
        if not left:
            wait_for_the_end(living)
            living = descendants(os.getpid())
        for pid in living:
            left.append(describe(pid))
            os.kill(pid, signal.SIGKILL)
        wait_for_the_end(living)
        reap()
    return left


@pytest.fixture
def run_dir() -> Iterator[Path]:
    """The private XDG_RUNTIME_DIR of the test. Its path is short: a Unix socket's may have 107 characters."""
    directory = Path(tempfile.mkdtemp(prefix="cs-", dir="/tmp"))
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(autouse=True)
def nothing_left(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Keep the test away from the user's own services, and fail it when it leaves something behind."""
    for name in [name for name in os.environ if name.startswith("CSERVICE_")] + ["RUNTIME_DIRECTORY", "NOTIFY_SOCKET"]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(run_dir))
    state = run_dir / "state"  # what services keep beyond their end
    monkeypatch.setenv("XDG_STATE_HOME", str(state))
    before = descriptors()
    yield
    complaints = []
    if children():
        complaints += [f"process {line}" for line in processes_left()]
        reap()
    after = descriptors()
    if after != before:
        gc.collect()
        after = descriptors()
    complaints += [f"descriptor {fd}: {what}" for fd, what in after.items() if before.get(fd) != what]
    complaints += [f"file {path}" for path in run_dir.rglob("*") if not path.is_dir() and state not in path.parents]
    if complaints:
        pytest.fail("left behind: " + "; ".join(complaints), pytrace=False)
