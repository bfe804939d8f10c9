"""The helper process: what could wait waits there, and nothing of it in the guardian."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from pathlib import Path

import pytest

import cluster_service
from tests.contract.interface import DEADLINE

ARGV = [
    sys.executable,
    "-I",
    "-S",
    str(Path(__file__).with_name("helper_cases.py")),
    str(Path(cluster_service.__file__).parent.parent),
]


@pytest.mark.parametrize(
    "case",
    [
        "forked_when_needed",
        "in_order",
        "a_lent_descriptor_may_be_given_away",
        "one_that_waits_is_replaced",
        "one_that_ends_is_replaced",
        "failures",
        "close_never_lingers_here",
        "many_are_closed_in_few_messages",
        "end_cancels_what_is_left",
        "no_process_to_be_had",
        "small",
    ],
)
def test_the_helper(case: str) -> None:
    done = subprocess.run([*ARGV, case], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_it_ends_with_the_guardian() -> None:
    """However the guardian ends, and whatever the helper waits for."""
    done = subprocess.run([*ARGV, "ends_with_the_guardian"], capture_output=True, text=True, check=False)
    try:
        pidfd = os.pidfd_open(int(done.stdout))
    except ProcessLookupError:
        return
    try:
        assert select.select([pidfd], [], [], DEADLINE)[0]
    finally:
        os.close(pidfd)
