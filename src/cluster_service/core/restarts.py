"""When a slot whose worker failed is tried again: data and a pure function of time.

The rule is Erlang's (intensity and period, supervisor(3)) for each slot on its own, with exponential back-off: the
first restart comes after ``policy.delay`` seconds, each further one after twice the time, never more than ``CAP``. A
slot that fails more than ``policy.per_minute`` times in 60 seconds is *broken*: it is tried every ``policy.slow_pace``
seconds until a worker of it has served for ``STEADY`` seconds. The verdict is never "end the service": others serve on.

With delay 0.1 and per_minute 10 a program that fails at once is started at 0.1, 0.3, 0.7, 1.5, 3.1, 6.3, 11.3, 16.3,
21.3 and 26.3 seconds and is then broken.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from .slot import History
    from .spec import RestartPolicy

CAP = 5.0
JITTER = 0.2
"""A delay is lengthened by up to this share, so that slots which failed together do not come back together."""


class Verdict(NamedTuple):
    """When to try again (None: not by itself), and whether the slot is broken."""

    at: float | None
    broken: bool


def verdict(policy: RestartPolicy, history: History, now: float, jitter: float) -> Verdict:
    """Judge a slot that has just failed. *jitter*: 0…1, whatever the caller likes."""
    if not policy.auto_restart:
        return Verdict(None, broken=True)
    if history.broken or len(history.failures) > policy.per_minute:
        return Verdict(now + policy.slow_pace * (1 + JITTER * jitter), broken=True)
    delay = min(max(CAP, policy.delay), policy.delay * 2 ** (min(history.streak, 30) - 1))
    return Verdict(now + delay * (1 + JITTER * jitter), broken=False)
