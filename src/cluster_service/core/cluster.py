"""The whole service as one pure, level-triggered machine: events in, actions out.

Two laws. Requests only edit what is *wanted* (``group.Slot.generation``, the slots that exist); facts only edit what is
*seen* (``worker.Worker``). Then each turn compares the two and orders the difference, until nothing changes. No
procedure spans two turns: whoever restores the notebook and hears the guardian's snapshot can go on from anywhere.

    actions = cluster.handle(fact, now)                  now: monotonic seconds
    operation, actions = cluster.request(request, now)   raises Rejected; then nothing was changed
    at = cluster.deadline()                              when to come back with a Tick, at the latest
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from cluster_service.wire import facts

from . import actions, recycle, reload, reports, requests, rollouts, seen, shutdown, wanted, watch
from .group import Group
from .operations import Operation
from .spec import Spec
from .turn import LINGER, TRY_AGAIN, end, ready_after, turn
from .worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from . import events

LATE = 1.0
"""Seconds by which a turn may miss its deadline before we conclude that we were suspended or starved."""

PULSE = 2.0
"""Seconds between two turns, at most, while the time of some worker is running: so no suspension goes unnoticed."""


class Cluster:
    """A service: its groups, its workers and its operations."""

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
        self.asked: set[str] = set()
        """The addresses that answered when a program looked, and so kept it from starting."""
        self.refusing: dict[str, str] = {}
        """The addresses of the shared sockets that do not accept connections, and why."""
        self.sees_ports = False
        """Whether the guardian learns of every port that a worker of a group with share ``auto`` opens."""
        self.sampled_at = 0.0
        """When the board was last read."""
        self._now = 0.0
        self.judging_time = False
        """Whether this turn may judge a worker's time to be over: a Tick's only, for facts may be unread."""
        self.todo: list[actions.Action] = []
        """What this turn has ordered so far."""
        self.unsettled = False
        """The last turn did not come to an end: the next ``Tick`` is not wanted at once."""

    # -- the calls ----------------------------------------------------------------------------------------------------

    def handle(self, fact: Any, now: float) -> list[actions.Action]:
        """Take in *fact* (of the guardian's, a report or ``Tick``) at *now* and return what is to be done.

        Facts that are not the core's business (Ping, Message, Refused) are ignored.
        """
        return self.handle_all((fact,), now)

    def handle_all(self, batch: Sequence[Any], now: float) -> list[actions.Action]:
        """Take in the facts of one step (see ``batches``) at *now* and return what is to be done."""
        if self.ended:
            return [end(self)] if any(isinstance(fact, facts.Snapshot) for fact in batch) else []
        self._begin_turn(now, judging_time=any(isinstance(fact, requests.Tick) for fact in batch))
        for fact in batch:
            handler = HANDLERS.get(type(fact))
            if handler is not None:
                handler(self, fact, now)
        return self._end_turn(now)

    def request(self, request: requests.Request, now: float) -> tuple[Operation, list[actions.Action]]:
        """Carry out *request* at *now*; return its operation and what is to be done.

        Raises Rejected when it cannot be carried out; then nothing was changed.
        """
        apply = self._plan(request)
        self._begin_turn(now, judging_time=False)
        operation = apply(now)
        return operation, self._end_turn(now)

    def _plan(self, request: requests.Request) -> wanted.Apply:
        if self.ended:
            raise requests.Rejected("stopping", "the service has ended", "start it again")
        try:
            return REQUESTS[type(request)](self, request)
        except requests.Rejected:
            raise
        except Exception as error:  # a mistake of ours; since a plan changes nothing, the service is as it was
            text = f"the request could not be examined: {type(error).__name__}: {error}"
            raise requests.Rejected("internal", text) from error

    def _begin_turn(self, now: float, *, judging_time: bool) -> None:
        self.todo, self.judging_time, self.unsettled = [], judging_time, False
        self._forgive(now)

    def _end_turn(self, now: float) -> list[actions.Action]:
        self._now = max(now, self._now)
        if not self.ended:
            turn(self, now)
        return self.todo

    def deadline(self) -> float | None:
        """When the core wants a ``Tick`` if nothing else happens; None: never. Monotonic seconds."""
        if self.ended:
            return None
        deadlines = [worker.deadline for worker in self.workers.values() if worker.deadline is not None]
        deadlines += [each.elsewhere_by for each in self.workers.values() if each.elsewhere_by is not None]
        times = [since + LINGER for since in self.unused.values() if since is not None] + recycle.expiries(self)
        for worker in self.workers.values():
            after = ready_after(self, worker)
            if worker.state == "starting" and after is not None and worker.told is None:
                times.append(worker.since + after)
        for group in self.groups.values():
            tries = [group.next_try(slot) for slot in group.wanted_slots()]
            times += [at for at in tries if at is not None]
            if group.rollout is not None and group.rollout.due is not None:
                deadlines.append(group.rollout.due)
        deadlines += [self.drain_at] if self.drain_at is not None else []
        times = [at for at in times if at > self._now] + deadlines
        if deadlines:
            times.append(self._now + PULSE)
        if self.unsettled:
            return max(min(times, default=0.0), self._now + TRY_AGAIN)
        return min(times, default=None)

    def snapshot(self) -> dict[str, Any]:
        """The notebook: all that cannot be learned from the guardian. JSON-able."""
        return {
            "spec": self.spec.to_json(),
            "groups": [group.to_json() for group in self.groups.values()],
            "workers": [vars(worker) for worker in self.workers.values()],
            "operations": [operation.to_json() for operation in self.operations],
            "unused": dict(self.unused),
            "asked": sorted(self.asked),
            **{key: getattr(self, key) for key in _KEPT},
            "now": self._now,
        }

    @classmethod
    def restore(cls, spec: Spec, data: dict[str, Any]) -> Cluster:
        """Inverse of ``snapshot`` after a trip through JSON. The next event must be the guardian's Snapshot."""
        cluster = cls(Spec.from_json(data["spec"]) if "spec" in data else spec)  # it may have been reloaded since
        cluster.groups = {group["spec"]["name"]: Group.from_json(group) for group in data["groups"]}
        cluster.workers = {worker["number"]: Worker(**worker) for worker in data["workers"]}
        cluster.operations = [Operation(**operation) for operation in data["operations"]]
        cluster.unused = dict(data["unused"])
        cluster.asked = set(data.get("asked", ()))
        for key in _KEPT:
            setattr(cluster, key, data.get(key, getattr(cluster, key)))
        cluster._now = data["now"]
        return cluster

    # -- reading ------------------------------------------------------------------------------------------------------

    def operation(self, identity: str) -> Operation:
        """The operation of that id. Raises LookupError."""
        for operation in self.operations:
            if operation.id == identity:
                return operation
        raise LookupError(identity)

    def pace(self) -> float | None:
        """Seconds from one sample of the board to the next; None: none are wanted."""
        return watch.pace(self) if not self.ended else None

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

    def end_service(self, reason: str, code: int) -> None:
        """Want no worker any more; the service ends with exit code *code* when none is left. See ``shutdown``."""
        self.ending, self.end_code, self.drain_at = reason, code, None
        for group in self.groups.values():
            group.leave_reason, group.leaving = "shutdown", True
        shutdown.release(self)

    def _forgive(self, now: float) -> None:
        """Where we were not running, nobody is to be killed for the time that passed: it was not theirs either."""
        expected = self.deadline()
        if expected is None or now <= expected + LATE:
            return
        lost = now - self._now
        for worker in self.workers.values():
            if worker.deadline is not None and (worker.state != "gone" or worker.left):
                worker.deadline += lost
            if worker.stop_by is not None:
                worker.stop_by += lost
            if worker.elsewhere_by is not None:
                worker.elsewhere_by += lost
            if worker.state == "starting":
                worker.since += lost  # nor has it been alive for that long
        for group in self.groups.values():
            if group.rollout is not None and group.rollout.due is not None:
                group.rollout.due += lost  # nor has anybody been seen to be healthy

    # -- small things -------------------------------------------------------------------------------------------------

    def publish(self, event: events.Event) -> None:
        """Tell the world of *event*."""
        self.todo.append(actions.Publish(event))


_KEPT = ("last_worker", "operation_count", "sampled_at", "ending", "end_code", "drain_at", "ended", "begun")

HANDLERS: dict[type, Callable[[Cluster, Any, float], None]] = {
    facts.Snapshot: seen.snapshot,
    facts.Spawned: seen.spawned,
    facts.SpawnFailed: seen.spawn_failed,
    facts.Exited: seen.exited,
    facts.Output: seen.output,
    facts.Swept: seen.swept,
    facts.Listening: seen.listening,
    facts.ListenFailed: seen.listen_failed,
    facts.Released: seen.released,
    facts.ListenerState: seen.listener_state,
    facts.Unlistened: seen.unlistened,
    facts.Ready: seen.ready,
    facts.Notified: seen.notified,
    facts.Signalled: seen.signalled,
    reports.Checked: rollouts.checked,
    reports.Tested: rollouts.tested,
    reports.Said: rollouts.said,
    reports.Sample: watch.sample,
    reports.Dumped: watch.dumped,
    reports.Examined: watch.examined,
    reports.Due: recycle.due,
    requests.Tick: lambda _cluster, _tick, _now: None,
}

REQUESTS: dict[type, Callable[[Cluster, Any], wanted.Apply]] = {
    requests.Restart: wanted.restart,
    requests.Scale: wanted.scale,
    requests.Shutdown: wanted.shut_down,
    requests.StartGroup: wanted.start_group,
    requests.ExitNow: wanted.exit_now,
    requests.Upgrade: wanted.upgrade,
    requests.Rollback: wanted.rollback,
    requests.Cancel: wanted.cancel,
    requests.Reload: reload.reload,
    requests.Test: wanted.test,
}
"""The plan of each request."""
