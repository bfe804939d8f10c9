"""When a slot that failed is tried again."""

from __future__ import annotations

import pytest

from cluster_service.core.model.spec import RestartPolicy
from cluster_service.core.model.worker import PERIOD_SECONDS, History
from cluster_service.core.rules.replacement import JITTER, MAX_DELAY, next_attempt


def failing(policy: RestartPolicy, until: float, *, takes: float = 0.0) -> list[tuple[float, bool]]:
    """Return when a slot whose program always fails *takes* seconds after its start is started, and whether broken."""
    history, at = History(), 0.0
    starts: list[tuple[float, bool]] = []
    while True:
        died = at + takes
        history = history.failed(died)
        judged = next_attempt(policy, history, died, 0.0)
        if judged.broken:
            history = History(history.streak, history.failures, broken=True)
        if judged.at is None or judged.at > until:
            return starts
        at = judged.at
        starts.append((round(at, 6), judged.broken))


def test_the_worked_example_of_the_docstring() -> None:
    starts = failing(RestartPolicy(), 100.0)
    assert starts == [
        *((at, False) for at in (0.1, 0.3, 0.7, 1.5, 3.1, 6.3, 11.3, 16.3, 21.3, 26.3)),
        (86.3, True),
    ]


@pytest.mark.parametrize(
    ("streak", "policy", "seconds"),
    [
        (1, RestartPolicy(delay=0.1), 0.1),
        (2, RestartPolicy(delay=0.1), 0.2),
        (3, RestartPolicy(delay=0.1), 0.4),
        (6, RestartPolicy(delay=0.1), 3.2),
        (7, RestartPolicy(delay=0.1), MAX_DELAY),
        (5000, RestartPolicy(delay=0.1), MAX_DELAY),
        (1, RestartPolicy(delay=0.0), 0.0),
        (9, RestartPolicy(delay=0.0), 0.0),
        (1, RestartPolicy(delay=30.0), 30.0),  # an operator's own delay is not cut by the cap
        (2, RestartPolicy(delay=30.0), 30.0),
    ],
)
def test_the_delay_doubles_up_to_the_cap(streak: int, policy: RestartPolicy, seconds: float) -> None:
    judged = next_attempt(policy, History(streak, (0.0,)), 0.0, 0.0)
    assert judged.at == pytest.approx(seconds)
    assert not judged.broken


@pytest.mark.parametrize("jitter", [0.0, 0.5, 1.0])
def test_jitter_only_lengthens(jitter: float) -> None:
    judged = next_attempt(RestartPolicy(delay=1.0), History(1, (50.0,)), 50.0, jitter)
    assert judged.at == pytest.approx(51.0 + JITTER * jitter)
    broken = next_attempt(RestartPolicy(slow_pace=60.0), History(1, (50.0,), broken=True), 50.0, jitter)
    assert broken.at == pytest.approx(110.0 + 60.0 * JITTER * jitter)


@pytest.mark.parametrize("per_minute", [0, 1, 3, 10])
@pytest.mark.parametrize("takes", [0.0, 0.5, 3.0])
def test_never_more_restarts_in_a_minute_than_the_policy_allows(per_minute: int, takes: float) -> None:
    policy = RestartPolicy(delay=0.1, per_minute=per_minute, slow_pace=20.0)
    starts = failing(policy, 1000.0, takes=takes)
    normal = [at for at, broken in starts if not broken]
    for at in normal:
        assert sum(at <= other < at + PERIOD_SECONDS for other in normal) <= per_minute


def test_no_restarts_at_all_breaks_the_slot_at_once() -> None:
    assert next_attempt(RestartPolicy(per_minute=0), History().failed(5.0), 5.0, 0.0).broken


def test_without_auto_restart_nothing_is_tried_again() -> None:
    assert next_attempt(RestartPolicy(auto_restart=False), History().failed(5.0), 5.0, 0.0) == (None, True)


def test_a_broken_slot_goes_at_the_slow_pace_whatever_its_recent_failures() -> None:
    history = History(40, (), broken=True).failed(500.0)
    assert next_attempt(RestartPolicy(slow_pace=60.0), history, 500.0, 0.0) == (560.0, True)


def test_failures_older_than_a_minute_are_forgotten_and_the_streak_is_not() -> None:
    history = History().failed(0.0).failed(30.0).failed(60.0)
    assert history.failures == (30.0, 60.0)
    assert history.streak == 3


def test_failures_that_are_far_apart_never_break_a_slot() -> None:
    history = History()
    for minute in range(100):
        now = minute * PERIOD_SECONDS / 5
        history = history.failed(now)
        assert not next_attempt(RestartPolicy(per_minute=5), history, now, 0.0).broken
