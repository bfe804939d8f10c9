"""The short form: a few batches at every boundary, with fixed seeds. The long form is ``python -m tests.fuzz``."""

from __future__ import annotations

import random

import pytest

from . import run
from .boundaries import BOUNDARIES

SEEDS = (1,)
BATCHES = 3


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", BOUNDARIES)
def test_every_rule_holds_at(name: str, seed: int) -> None:
    figures = run.run(name, seed, batches=BATCHES)
    assert not figures.broken, figures.broken
    assert figures.inputs == BATCHES * BOUNDARIES[name].batch
    if not BOUNDARIES[name].stranger:  # who reaches nothing
        assert figures.taken, "some inputs are valid, or nothing is tried beyond the first check"


@pytest.mark.parametrize("name", BOUNDARIES)
def test_inputs_are_a_function_of_the_seed(name: str) -> None:
    first, again, other = (
        [repr(given) for given in BOUNDARIES[name].inputs(random.Random(seed), 20)]
        for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other
