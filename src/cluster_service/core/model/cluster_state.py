"""The state of the whole service, and its operations.

An operation is the record of a long command. It does no work: its request has edited the desired state, and each step
compares that with the observed state. So a master that dies in the middle leaves nothing to resume.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from .group import Group

if TYPE_CHECKING:
    from .spec import Spec
    from .worker import Worker

MAX_STEPS = 200
"""Most steps that are kept of one operation."""

MAX_FINISHED = 50
"""Most finished operations that are kept."""

MAX_RUNNING = 100
"""Most operations that run at the same time; a further request is refused."""


@dataclass
class Operation:
    """One long command. Times are monotonic seconds."""

    id: str
    command: str
    """The command as a user would type it: ``restart all``."""
    kind: str
    """start, restart, scale, shutdown, upgrade, rollback, reload, test or exit."""
    at: float
    slots: list[list[Any]] = field(default_factory=list)
    """``[group, slot]`` of each slot that the operation changes."""
    generations: dict[str, int] = field(default_factory=dict)
    """Group -> the generation to promote when the operation is done."""
    children: list[str] = field(default_factory=list)
    """reload: ids of the operations that it has started."""
    restarts: list[str] = field(default_factory=list)
    """reload: selectors of the restarts that follow when the children are done."""
    state: str = "running"
    reason: str | None = None
    steps: list[list[Any]] = field(default_factory=list)
    """``[time, text]`` of each step."""
    steps_dropped: int = 0
    """Number of older steps that are no longer kept."""
    replaced: int = 0
    ended_at: float | None = None
    killed: list[str] = field(default_factory=list)
    """Names of workers that were killed because they did not exit within their stop timeout."""

    @property
    def running(self) -> bool:
        """True if the operation has not ended."""
        return self.state == "running"

    @property
    def groups(self) -> set[str]:
        """Return the names of the groups that the operation changes."""
        return {group for group, _ in self.slots}

    def concerns(self, group: str, slot: int) -> bool:
        """Return whether the operation changes this slot."""
        return [group, slot] in self.slots

    def step(self, now: float, text: str) -> None:
        """Add a step; drop the oldest if there are too many."""
        self.steps.append([now, text])
        self.steps_dropped += max(0, len(self.steps) - MAX_STEPS)
        del self.steps[:-MAX_STEPS]

    def to_json(self) -> dict[str, Any]:
        """Return the entry of the checkpoint."""
        return asdict(self)

    def __repr__(self) -> str:
        return f"<Operation {self.id} {self.command!r} {self.state} {self.replaced}/{len(self.slots)}>"


def drop_old_operations(operations: list[Operation]) -> list[Operation]:
    """Return *operations* without the oldest finished ones, so that ``MAX_FINISHED`` of them remain.

    The children of a running operation remain: its outcome depends on theirs.
    """
    needed = {each.id for each in operations if each.running}
    needed |= {child for each in operations if each.running for child in each.children}
    droppable = [each.id for each in operations if each.id not in needed]
    dropped = set(droppable[: max(0, len(droppable) - MAX_FINISHED)])
    return [each for each in operations if each.id not in dropped]


class ClusterState:
    """The groups, workers and operations of a service."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.groups = {group.name: Group.new(group) for group in spec.groups}
        self.workers: dict[int, Worker] = {}
        self.operations: list[Operation] = []
        self.last_worker = 0
        self.operation_count = 0
        self.ending = ""
        """Why the service ends: shutdown, failure or exit; empty while it runs."""
        self.end_code = 0
        self.drain_at: float | None = None
        """When the workers of a service that ends receive their stop signal; until then they serve."""
        self.ended = False
        self.begun = False
        self.unused: dict[str, float | None] = {}
        """Address of each shared socket -> since when no worker has used it; None: a worker uses it."""
        self.refusing: dict[str, str] = {}
        """Address of each shared socket that does not accept connections -> why."""
        self.asked: set[str] = set()
        """Addresses that a program probed and found in use, so that it did not start."""
        self.sees_ports = False
        """True if the guardian sees every port that a worker of a group with share ``auto`` opens."""
        self.sampled_at = 0.0
        """When the boards were last read."""
        self.now = 0.0
        """The time of the last step."""

    def operation(self, identity: str) -> Operation:
        """Return the operation with this id. Raises LookupError."""
        for operation in self.operations:
            if operation.id == identity:
                return operation
        raise LookupError(identity)

    def workers_of(self, name: str) -> list[Worker]:
        """Return the workers of a group that have, or will have, a process."""
        return [worker for worker in self.workers.values() if worker.group == name and worker.state != "gone"]

    def running_operations(self) -> list[Operation]:
        """Return the operations that have not ended."""
        return [operation for operation in self.operations if operation.running]

    def __repr__(self) -> str:
        counts: dict[str, int] = defaultdict(int)
        for worker in self.workers.values():
            counts[worker.state] += 1
        seen = ", ".join(f"{count} {state}" for state, count in counts.items()) or "no workers"
        generation = max((group.generation for group in self.groups.values()), default=0)
        doing = "".join(f" | {op.command} {op.replaced}/{len(op.slots)}" for op in self.running_operations())
        return f"<Cluster generation {generation}: {seen}{doing}>"
