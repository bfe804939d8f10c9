"""The stages of an upgrade, as a table, and the state of a running upgrade.

``STAGES`` defines their order; the diagram in the documentation is drawn from it. ``engine.upgrade_engine`` acts on it.

    check    the master checks whether the code can run at all
    dark     a preview worker in slot 0, with isolated ports, is tested; no client reaches it
    canary   one slot has a worker of the new release beside the old one, for ``monitor`` seconds
    roll     every slot changes to the new release, ready-first
    bake     all workers run the new release, and are monitored for ``monitor`` seconds more
    undo     every slot returns to its previous generation
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .worker import Slot

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

LIVE_STAGES = frozenset({"canary", "roll", "bake"})
"""Stages in which clients reach the new release."""

UPGRADE_KINDS = frozenset({"upgrade", "rollback"})
"""Kinds of operations that consist of these stages."""


@dataclass
class Rollout:
    """A running upgrade or rollback of one group. Times are monotonic seconds."""

    operation: str
    new: int
    before: list[list[int]]
    """``[slot, generation]`` of each slot to upgrade, before the upgrade."""
    whole: bool
    """True if it covers every slot, including slots added later; the release is then promoted at the end."""
    monitor: float
    timeout: float | None = None
    test: str | None = None
    health_check: str | None = None
    allow_port_change: bool = False
    configured: bool = False
    """True if a reload started it: its release becomes the configured one."""
    stage: str = "check"
    ordered: bool = False
    """True if the current master has been ordered to run the check or test of this stage."""
    due: float | None = None
    """When the monitor time of this stage ends."""
    culprit: int | None = None
    """Number of the worker whose failure caused the undo, until its last lines have arrived."""
    why: str = ""
    cancelled: bool = False
    dark: Slot | None = None
    answers: dict[str, list[int]] = field(default_factory=lambda: {"old": [0, 0], "new": [0, 0]})
    """Responses and errors (5xx) of each release since the upgrade started."""

    def move(self, event: str) -> None:
        """Enter the next stage by the table. Raises KeyError if *event* has no entry there."""
        self.stage = STAGES[self.stage][event]
        self.ordered, self.due = False, None

    @property
    def undoing(self) -> bool:
        """True while the slots return to their previous generations."""
        return self.stage == "undo"
