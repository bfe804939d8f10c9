"""The short form of the fault machine: a handful of faults, each once, some at the same time, and every check."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from . import machine, plan, wall
from .plan import Step
from .story import Story
from .table import FAULTS

if TYPE_CHECKING:
    from pathlib import Path

RATE = 60.0
"""Requests a second: the tests' machine is to be left something."""

NURSE, ORPHAN, DAEMONIZE = 2, 0, 1
"""Seeds with which a background child is each of the three."""

ROUNDS = [
    [
        Step(0, "kill worker", 1),
        Step(0.2, "kill log writer", 1),
        Step(0, "reload of a mistake", 1),
        Step(0, "listener shut down", 1),
        Step(0, "listener shut down", 2),
    ],
    [Step(0, "clock step", 5), Step(0, "upgrade", 1), Step(1, "kill master", 1)],
    [Step(0, "upgrade that raises", 1), Step(0.3, "stop guardian", 3), Step(0, "full disk", 4)],
    [Step(0, "descriptors closed", 1), Step(0, "port moves", 1)],
    [Step(0, "installation removed", 1), Step(0.2, "kill worker", 1)],
    [Step(0, "no descriptors for the guardian", 2), Step(0.2, "restart", 2), Step(0, "worker crashes", 1)],
    # a child whose worker goes on for now, of one that exits with 7, and of one that exits with 0
    [Step(0.2 * place, "background child", seed) for place, seed in enumerate((NURSE, ORPHAN, DAEMONIZE))],
]


@pytest.mark.timeout(300)
def test_promises_are_kept_whatever_happens(tmp_path: Path) -> None:
    story = Story(tmp_path / "story.jsonl")
    rounds = iter([[step for step in steps if FAULTS[step.fault].here] for steps in ROUNDS])
    try:
        outcome = machine.run(rounds, story, seed=0, seconds=150, rate=RATE)
    finally:
        story.close()
    assert not outcome.broken, f"{story.text()}\n{outcome.broken}"
    assert outcome.rounds == len(ROUNDS) + 1
    assert sum(result.sent for result in outcome.results) > RATE
    assert outcome.masters > 1
    assert outcome.workers > 8, "four at the start, two of the upgrade, one of the bad one, one killed, one crashed"


@pytest.mark.skipif(not wall.HERE, reason="needs a C compiler")
def test_a_wall_clock_can_be_set_and_no_other_is(tmp_path: Path) -> None:
    clock = wall.Wall(tmp_path)
    program = "import time\nfor _ in range(2): input(); print(time.time(), time.monotonic(), flush=True)"
    with subprocess.Popen(
        [sys.executable, "-c", program],
        env={**os.environ, **clock.env},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        moments = []
        for offset in (0.0, -86400.5):
            clock.set(offset)
            process.stdin.write("\n")
            process.stdin.flush()
            moments.append([float(word) for word in process.stdout.readline().split()])
    (wall_before, before), (wall_after, after) = moments
    assert wall_after - wall_before - (after - before) == pytest.approx(-86400.5, abs=0.1)


def test_a_seed_is_a_plan_and_a_story_is_the_same_plan() -> None:
    weights = {name: fault.weight for name, fault in FAULTS.items()}
    rounds = plan.drawn(7, weights)
    first = [next(rounds) for _ in range(50)]
    again = plan.drawn(7, weights)
    assert [next(again) for _ in range(50)] == first
    assert next(plan.drawn(8, weights)) != first[0]
    records = [{"at": 0.0, "what": "round", "steps": plan.to_json(steps)} for steps in first]
    assert list(plan.told([*records, {"at": 1.0, "what": "event"}])) == first
    assert {step.fault for _ in range(400) for step in next(rounds)} == set(weights), "each comes, sooner or later"
