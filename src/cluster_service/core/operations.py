"""Long commands: what each waits for, and when it has failed. Judged anew each turn from what is wanted and seen.

An operation does no work. Its request has edited what is wanted; the operation only watches, tells its steps, and
ends. So a master that dies in the middle has nothing to resume.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

STEPS = 200
"""Steps remembered of one operation."""

KEPT = 50
"""Operations remembered, those that run not counted."""

MAX_RUNNING = 100
"""Operations that may run at the same time; a further request is refused."""


@dataclass
class Operation:
    """One long command. Times are monotonic seconds."""

    id: str
    command: str
    """As an operator would type it: ``restart all``."""
    kind: str
    """start, restart, scale, shutdown, upgrade, rollback, reload, test or exit."""
    at: float
    slots: list[list[Any]] = field(default_factory=list)
    """The ``[group, slot]`` that it is about."""
    generations: dict[str, int] = field(default_factory=dict)
    """The generation of each group that is promoted when it is done."""
    children: list[str] = field(default_factory=list)
    """reload: the operations that it has begun."""
    restarts: list[str] = field(default_factory=list)
    """reload: what is to be restarted (selectors) when these are done."""
    state: str = "running"
    reason: str | None = None
    steps: list[list[Any]] = field(default_factory=list)
    """``[at, text]``."""
    steps_dropped: int = 0
    """How many steps before these were too many to remember."""
    replaced: int = 0
    ended_at: float | None = None
    killed: list[str] = field(default_factory=list)
    """The workers of its slots that were killed because they did not end within their stop timeout."""

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self.state == "running"

    @property
    def groups(self) -> set[str]:
        """The groups that it is about."""
        return {group for group, _ in self.slots}

    def concerns(self, group: str, slot: int) -> bool:
        """Whether it is about this slot."""
        return [group, slot] in self.slots

    def step(self, now: float, text: str) -> None:
        """Remember a step."""
        self.steps.append([now, text])
        self.steps_dropped += max(0, len(self.steps) - STEPS)
        del self.steps[:-STEPS]

    def to_json(self) -> dict[str, Any]:
        """For the notebook."""
        return asdict(self)

    def __repr__(self) -> str:
        return f"<Operation {self.id} {self.command!r} {self.state} {self.replaced}/{len(self.slots)}>"


def without_forgotten(operations: list[Operation]) -> list[Operation]:
    """Return *operations* without the oldest of those that nothing needs any more, so that ``KEPT`` of them are left.

    An operation that runs is needed, and so are those that it has begun: it is judged by them.
    """
    needed = {each.id for each in operations if each.running}
    needed |= {child for each in operations if each.running for child in each.children}
    droppable = [each.id for each in operations if each.id not in needed]
    dropped = set(droppable[: max(0, len(droppable) - KEPT)])
    return [each for each in operations if each.id not in dropped]
