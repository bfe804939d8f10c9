"""State of the whole service: data only."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from .group import Group

if TYPE_CHECKING:
    from .operations import Operation
    from .spec import Spec
    from .worker import Worker


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
        """Why the service ends (shutdown, failure, exit); empty while it goes on."""
        self.end_code = 0
        self.drain_at: float | None = None
        """When the workers of a service that ends are asked to end too: until then they serve on."""
        self.ended = False
        self.begun = False
        self.unused: dict[str, float | None] = {}
        """The addresses of the shared sockets, and since when each has had no user (None: it has)."""
        self.refusing: dict[str, str] = {}
        """The addresses of the shared sockets that do not accept connections, and why."""
        self.asked: set[str] = set()
        """The addresses that answered when a program looked, and so kept it from starting."""
        self.sees_ports = False
        """Whether the guardian learns of every port that a worker of a group with share ``auto`` opens."""
        self.sampled_at = 0.0
        """When the board was last read."""
        self.now = 0.0

    def operation(self, identity: str) -> Operation:
        """The operation of that id. Raises LookupError."""
        for operation in self.operations:
            if operation.id == identity:
                return operation
        raise LookupError(identity)


    def of_group(self, name: str) -> list[Worker]:
        """The workers of a group that have a process, or are about to."""
        return [worker for worker in self.workers.values() if worker.group == name and worker.state != "gone"]


    def running(self) -> list[Operation]:
        """The operations that have not ended."""
        return [operation for operation in self.operations if operation.running]


    def __repr__(self) -> str:
        counts: dict[str, int] = defaultdict(int)
        for worker in self.workers.values():
            counts[worker.state] += 1
        seen = ", ".join(f"{count} {state}" for state, count in counts.items()) or "no workers"
        generation = max((group.generation for group in self.groups.values()), default=0)
        doing = "".join(f" | {op.command} {op.replaced}/{len(op.slots)}" for op in self.running())
        return f"<Cluster generation {generation}: {seen}{doing}>"

