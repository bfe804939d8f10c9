"""The stages of an upgrade, as a table, and the record of one that is under way.

``STAGES`` is all that there is to know of their order, and the diagram in the documentation is drawn from it. What is
done in each stands in ``rollouts``.

    check    the master looks whether the code can run at all
    dark     a worker in slot 0, on ports of its own, is put to the test; no client reaches it
    canary   one slot has a worker of the new release beside the old one, for ``monitor`` seconds
    roll     every slot wants the new release, ready-first
    bake     all run it, and are watched for ``monitor`` seconds more
    undo     every slot wants what it had
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .slot import Slot

STAGES: dict[str, dict[str, str]] = {
    "check": {"can run, to be tested": "dark", "can run": "canary", "bad": "undo"},
    "dark": {"passed": "canary", "bad": "undo"},
    "canary": {"healthy": "roll", "bad": "undo"},
    "roll": {"all serve": "bake", "bad": "undo"},
    "bake": {"healthy": "done", "bad": "undo"},
    "undo": {"all back": "undone"},
    "done": {},
    "undone": {},
}

LIVE = frozenset({"canary", "roll", "bake"})
"""Stages in which clients may reach the new release."""

KINDS = frozenset({"upgrade", "rollback"})
"""Operations that are stages, and end with the last of them."""


@dataclass
class Rollout:
    """One group's way from its slots' old generations to a new one. Times are monotonic seconds."""

    operation: str
    new: int
    before: list[list[int]]
    """``[slot, generation]`` of the slots that are meant, as they were."""
    whole: bool
    """Every slot of the group is meant, also those that are added meanwhile; then the release is promoted."""
    monitor: float
    timeout: float | None = None
    test: str | None = None
    health_check: str | None = None
    allow_port_change: bool = False
    configured: bool = False
    """The configuration asks for it: when it is done, its release is the configured one."""
    stage: str = "check"
    ordered: bool = False
    """The check or the test of this stage has been ordered of the master that lives."""
    due: float | None = None
    """When what is watched will have been healthy for ``monitor``."""
    culprit: int | None = None
    """The worker whose end made it bad: its last lines are waited for."""
    why: str = ""
    cancelled: bool = False
    dark: Slot | None = None
    answers: dict[str, list[int]] = field(default_factory=lambda: {"old": [0, 0], "new": [0, 0]})
    """Answers and errors of each release since it began."""

    def move(self, event: str) -> None:
        """Enter the stage that the table names. Raises KeyError where it names none."""
        self.stage = STAGES[self.stage][event]
        self.ordered, self.due = False, None

    @property
    def undoing(self) -> bool:
        """Whether the slots want what they had."""
        return self.stage == "undo"
