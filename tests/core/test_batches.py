"""Many facts at once cost one step, and come to the same as one step for each."""

from __future__ import annotations

from typing import Any

import pytest

from cluster_service.core.engine.cluster import BATCH_LIMIT, Cluster, split_into_steps
from cluster_service.core.model.spec import GroupSpec, Release, Spec
from cluster_service.core.protocol.requests import Tick
from cluster_service.wire import facts

COUNT = 50

A, B = facts.Spawned(1, 101), facts.Spawned(2, 102)
LISTENS = facts.Listening("127.0.0.1:80", 1)
DEAD, WORDS = facts.Exited(1, None, 9), facts.Output(1, ["words"])
DECLARED, HUP = facts.Listening("127.0.0.1:81"), facts.Signalled("HUP")

CASES: dict[str, tuple[list[Any], list[list[Any]]]] = {
    "nothing": ([], []),
    "different workers share a step": ([A, B], [[A, B]]),
    "the same worker again begins another": ([A, B, LISTENS, DEAD], [[A, B], [LISTENS], [DEAD]]),
    "but for its last words": ([B, DEAD, WORDS], [[B, DEAD, WORDS]]),
    "and the words of no exit": ([A, WORDS], [[A], [WORDS]]),
    "what is of no worker is alone": (
        [A, DECLARED, B, HUP, Tick(), DEAD],
        [[A], [DECLARED], [B], [HUP], [Tick()], [DEAD]],
    ),
}


@pytest.mark.parametrize(("arrived", "steps"), CASES.values(), ids=CASES)
def test_which_facts_share_a_step(arrived: list[Any], steps: list[list[Any]]) -> None:
    assert list(split_into_steps(arrived)) == steps


def test_a_step_has_a_limit() -> None:
    arrived = [facts.Spawned(number, number) for number in range(1, 2 * BATCH_LIMIT + 2)]
    assert [len(step) for step in split_into_steps(arrived)] == [BATCH_LIMIT, BATCH_LIMIT, 1]


def serving() -> Cluster:
    """A cluster of ``COUNT`` workers that serve."""
    release = Release("command", "/bin/sleep", cwd="/")
    cluster = Cluster(Spec("x", (GroupSpec("web", COUNT, release),)))
    cluster.handle(facts.Snapshot(1, 1, 0.0, [], [], "", 0, 1), 0.0)
    for number in range(1, COUNT + 1):
        cluster.handle(facts.Spawned(number, 100 + number), 0.1)
        cluster.handle(facts.Ready(number), 0.2)
    assert all(worker.serving for worker in cluster.workers.values())
    return cluster


def test_all_workers_that_die_together_are_one_step_with_the_same_result() -> None:
    died: list[Any] = [facts.Exited(number, None, 9) for number in range(1, COUNT + 1)]
    died += [facts.Output(number, [f"words {number}"]) for number in range(1, COUNT + 1)]
    together, alone = serving(), serving()
    (step,) = split_into_steps(died)
    ordered = together.handle_batch(step, 0.3)
    one_by_one = [action for fact in died for action in alone.handle(fact, 0.3)]
    assert together.checkpoint() == alone.checkpoint()
    assert sorted(map(repr, ordered)) == sorted(map(repr, one_by_one))


def test_what_a_notebook_says_is_a_copy() -> None:
    cluster = serving()
    before = cluster.groups["web"].to_json()
    slot = cluster.groups["web"].slots[1]
    slot.ports.append("127.0.0.1:80")
    slot.history = slot.history.failed(1.0)
    assert before["slots"][0]["ports"] == []
    assert before["slots"][0]["history"]["streak"] == 0
