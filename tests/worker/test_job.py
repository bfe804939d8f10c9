"""The time limit of a job holds also if a process of it traces the program and never waits."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from cluster_service.worker import job
from tests.tools.processes import stat
from tests.tools.tracing import STOP_AT_EXIT, TRACER, why_forbidden

if TYPE_CHECKING:
    from pathlib import Path

CASES = {
    "ends by itself": (0, "os._exit(3)", 3),
    "is killed": (0, "signal.pause()", -9),
    "is killed, and stopped at its exit": (STOP_AT_EXIT, "signal.pause()", -9),
}


@pytest.mark.parametrize("case", CASES)
def test_a_traced_program_does_not_outlive_its_job(tmp_path: Path, case: str) -> None:
    why = why_forbidden()
    if why:
        pytest.skip(f"ptrace is forbidden here: {why}")
    options, then, code = CASES[case]
    program = f"{TRACER}\nprint(trace(os.getpid(), {options}), flush=True)\n{then}"
    plan = tmp_path / "plan.json"
    plan.write_text(_plan(["-c", program]))
    descriptor = os.open(plan, os.O_RDONLY)
    try:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", job.__file__, str(descriptor)],
            pass_fds=(descriptor,),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
    finally:
        os.close(descriptor)
    with process:
        assert process.stdout is not None
        assert process.stdin is not None
        tracer = int(process.stdout.readline())
        if then != "os._exit(3)":
            process.stdin.close()
        try:
            assert process.wait(20) == code
        except subprocess.TimeoutExpired:
            os.kill(tracer, signal.SIGKILL)  # or the faulty job waits for it for ever
            raise
        finally:
            process.stdin.close()
    assert stat(tracer) is None


def _plan(arguments: list[str]) -> str:
    plan = {"argv": [sys.executable, "-I", "-S", *arguments], "env": {}, "cwd": "/", "uid": -1, "gid": -1}
    return json.dumps({**plan, "groups": [], "no_new_privs": True})
