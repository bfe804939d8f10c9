"""The whole service as one pure, level-triggered machine: events in, actions out.

Two laws. Requests only edit what is *wanted* (``group.Slot.generation``, the slots that exist); facts only edit what is
*seen* (``worker.Worker``). Then each turn compares the two and orders the difference, until nothing changes. No
procedure spans two turns: whoever restores the notebook and hears the guardian's snapshot can go on from anywhere.

    actions = cluster.handle(fact, now)                  now: monotonic seconds
    operation, actions = cluster.request(request, now)   raises Rejected; then nothing was changed
    at = cluster.deadline()                              when to come back with a Tick, at the latest
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cluster_service.wire import facts

from . import actions, health_reports, recycle, reload, reports, requests, rollouts, seen, wanted
from .group import Group
from .liveness import ready_after
from .operations import Operation
from .spec import Spec
from .step_context import StepContext
from .turn import LINGER, TRY_AGAIN, end, turn
from .worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

LATE = 1.0
"""Seconds by which a turn may miss its deadline before we conclude that we were suspended or starved."""

PULSE = 2.0
"""Seconds between two turns, at most, while the time of some worker is running: so no suspension goes unnoticed."""


class Cluster(StepContext):
    """A service: its groups, its workers and its operations."""

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
        self.now = max(now, self.now)
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
        times = [at for at in times if at > self.now] + deadlines
        if deadlines:
            times.append(self.now + PULSE)
        if self.unsettled:
            return max(min(times, default=0.0), self.now + TRY_AGAIN)
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
            "now": self.now,
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
        cluster.now = data["now"]
        return cluster

    # -- reading ------------------------------------------------------------------------------------------------------

    def pace(self) -> float | None:
        """Seconds from one sample of the board to the next; None: none are wanted."""
        return health_reports.pace(self) if not self.ended else None

    def _forgive(self, now: float) -> None:
        """Where we were not running, nobody is to be killed for the time that passed: it was not theirs either."""
        expected = self.deadline()
        if expected is None or now <= expected + LATE:
            return
        lost = now - self.now
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
    reports.Sample: health_reports.sample,
    reports.Dumped: health_reports.dumped,
    reports.Examined: health_reports.examined,
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

BATCH_LIMIT = 500
"""Facts in one step."""

_SHARED = (facts.Spawned, facts.SpawnFailed, facts.Exited, facts.Output, facts.Listening, facts.Ready, facts.Notified)


def split(arrived: Iterable[Any]) -> Iterator[list[Any]]:
    """Yield *arrived*, in their order, as the facts of each step. What is not about a worker has a step of its own."""
    batch: list[Any] = []
    last: dict[int, Any] = {}
    for fact in arrived:
        worker = getattr(fact, "worker", None) if isinstance(fact, _SHARED) else None
        before = last.get(worker) if worker is not None else None
        follows = before is None or (isinstance(fact, facts.Output) and isinstance(before, facts.Exited))
        if batch and (worker is None or not last or not follows or len(batch) == BATCH_LIMIT):
            yield batch
            batch, last = [], {}
        batch.append(fact)
        if worker is not None:
            last[worker] = fact
    if batch:
        yield batch
