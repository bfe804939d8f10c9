"""The service as a pure, level-triggered state machine: facts and requests in, actions out.

Requests only edit the *desired* state (the slots that exist, and ``Slot.generation``); facts only edit the *observed*
state (``Worker``). Each step then compares the two and orders the difference, until nothing changes. No procedure spans
two steps, so a new master can continue from any checkpoint and the guardian's snapshot.

    actions = cluster.handle(fact, now)                  now: monotonic seconds
    operation, actions = cluster.request(request, now)   raises Rejected; then nothing has changed
    at = cluster.deadline()                              when to call it with a Tick, at the latest
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cluster_service.core.model.cluster_state import Operation
from cluster_service.core.model.group import Group
from cluster_service.core.model.spec import Spec
from cluster_service.core.model.worker import Worker
from cluster_service.core.protocol import actions, reports, requests
from cluster_service.core.rules.liveness import ready_after_seconds
from cluster_service.wire import facts

from . import (
    failures,
    observations,
    recycle,
    request_handlers,
    spec_reload,
    upgrade_engine,
)
from .step import RETRY_SECONDS, UNUSED_LISTENER_SECONDS, end_action, run_step
from .step_context import StepContext

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

MAX_LATENESS = 1.0
"""Seconds by which a step may miss its deadline before the time is taken to have been lost to a suspension."""

MAX_STEP_INTERVAL = 2.0
"""Most seconds between two steps while a worker has a deadline, so that every suspension is noticed."""


class Cluster(StepContext):
    """The control loop of one service."""

    def handle(self, fact: Any, now: float) -> list[actions.Action]:
        """Handle one fact of the guardian, report of the master, or ``Tick``; return the actions to perform.

        Facts that do not concern the core (Ping, Message, Refused) are ignored.
        """
        return self.handle_batch((fact,), now)

    def handle_batch(self, batch: Sequence[Any], now: float) -> list[actions.Action]:
        """Handle the facts of one step (see ``split_into_steps``); return the actions to perform."""
        if self.ended:
            return [end_action(self)] if any(isinstance(fact, facts.Snapshot) for fact in batch) else []
        self._begin_step(now, may_time_out=any(isinstance(fact, requests.Tick) for fact in batch))
        for fact in batch:
            handler = FACT_HANDLERS.get(type(fact))
            if handler is not None:
                handler(self, fact, now)
        return self._end_step(now)

    def request(self, request: requests.Request, now: float) -> tuple[Operation, list[actions.Action]]:
        """Carry out *request*; return its operation and the actions to perform.

        Raises Rejected if it cannot be carried out; then nothing has changed.
        """
        apply = self._plan(request)
        self._begin_step(now, may_time_out=False)
        operation = apply(now)
        return operation, self._end_step(now)

    def _plan(self, request: requests.Request) -> request_handlers.Apply:
        if self.ended:
            raise requests.Rejected("stopping", "the service has ended", "start it again")
        try:
            return REQUEST_PLANS[type(request)](self, request)
        except requests.Rejected:
            raise
        except Exception as error:  # a bug in the core; a plan changes nothing, so the service can continue
            text = f"cannot validate the request: {type(error).__name__}: {error}"
            raise requests.Rejected("internal", text) from error

    def _begin_step(self, now: float, *, may_time_out: bool) -> None:
        self.todo, self.may_time_out, self.did_not_converge = [], may_time_out, False
        self._extend_deadlines(now)

    def _end_step(self, now: float) -> list[actions.Action]:
        self.now = max(now, self.now)
        if not self.ended:
            run_step(self, now)
        return self.todo

    def deadline(self) -> float | None:
        """Return when the next ``Tick`` is due if nothing else happens, in monotonic seconds; None: never."""
        if self.ended:
            return None
        deadlines = [worker.deadline for worker in self.workers.values() if worker.deadline is not None]
        deadlines += [each.elsewhere_by for each in self.workers.values() if each.elsewhere_by is not None]
        times = [
            since + UNUSED_LISTENER_SECONDS for since in self.unused.values() if since is not None
        ] + recycle.list_expiries(self)
        for worker in self.workers.values():
            after = ready_after_seconds(self, worker)
            if worker.state == "starting" and after is not None and worker.told is None:
                times.append(worker.since + after)
        for group in self.groups.values():
            tries = [group.next_try(slot) for slot in group.desired_slots()]
            times += [at for at in tries if at is not None]
            if group.rollout is not None and group.rollout.due is not None:
                deadlines.append(group.rollout.due)
        deadlines += [self.drain_at] if self.drain_at is not None else []
        times = [at for at in times if at > self.now] + deadlines
        if deadlines:
            times.append(self.now + MAX_STEP_INTERVAL)
        if self.did_not_converge:
            return max(min(times, default=0.0), self.now + RETRY_SECONDS)
        return min(times, default=None)

    def checkpoint(self) -> dict[str, Any]:
        """Return all state that the guardian cannot report, as a JSON object."""
        return {
            "spec": self.spec.to_json(),
            "groups": [group.to_json() for group in self.groups.values()],
            "workers": [vars(worker) for worker in self.workers.values()],
            "operations": [operation.to_json() for operation in self.operations],
            "unused": dict(self.unused),
            "asked": sorted(self.asked),
            **{key: getattr(self, key) for key in _CHECKPOINT_FIELDS},
            "now": self.now,
        }

    @classmethod
    def restore(cls, spec: Spec, data: dict[str, Any]) -> Cluster:
        """Inverse of ``checkpoint`` after a trip through JSON. The next fact must be the guardian's Snapshot."""
        cluster = cls(Spec.from_json(data["spec"]) if "spec" in data else spec)  # a reload may have replaced *spec*
        cluster.groups = {group["spec"]["name"]: Group.from_json(group) for group in data["groups"]}
        cluster.workers = {worker["number"]: Worker(**worker) for worker in data["workers"]}
        cluster.operations = [Operation(**operation) for operation in data["operations"]]
        cluster.unused = dict(data["unused"])
        cluster.asked = set(data.get("asked", ()))
        for key in _CHECKPOINT_FIELDS:
            setattr(cluster, key, data.get(key, getattr(cluster, key)))
        cluster.now = data["now"]
        return cluster

    def sample_interval(self) -> float | None:
        """Return the seconds between two samples of the workers' boards; None: no samples are needed."""
        return failures.sample_interval(self) if not self.ended else None

    def _extend_deadlines(self, now: float) -> None:
        """Extend deadlines by the time for which this process was suspended."""
        expected = self.deadline()
        if expected is None or now <= expected + MAX_LATENESS:
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
                worker.since += lost  # it did not run either
        for group in self.groups.values():
            if group.rollout is not None and group.rollout.due is not None:
                group.rollout.due += lost  # no worker was observed in that time


_CHECKPOINT_FIELDS = (
    "last_worker", "operation_count", "sampled_at", "ending", "end_code", "drain_at", "ended", "begun",
)  # fmt: skip

FACT_HANDLERS: dict[type, Callable[[Cluster, Any, float], None]] = {
    facts.Snapshot: observations.handle_snapshot,
    facts.Spawned: observations.handle_spawned,
    facts.SpawnFailed: observations.handle_spawn_failed,
    facts.Exited: observations.handle_exited,
    facts.Output: observations.handle_output,
    facts.Swept: observations.handle_swept,
    facts.Listening: observations.handle_listening,
    facts.ListenFailed: observations.handle_listen_failed,
    facts.Released: observations.handle_released,
    facts.ListenerState: observations.handle_listener_state,
    facts.Unlistened: observations.handle_unlistened,
    facts.Ready: observations.handle_ready,
    facts.Notified: observations.handle_notified,
    facts.Signalled: observations.handle_signalled,
    reports.Checked: upgrade_engine.handle_checked,
    reports.Tested: upgrade_engine.handle_tested,
    reports.Said: upgrade_engine.handle_test_output,
    reports.Sample: failures.handle_sample,
    reports.Dumped: failures.handle_stacks,
    reports.Examined: failures.handle_examined,
    reports.Due: recycle.handle_due,
    requests.Tick: lambda _cluster, _tick, _now: None,
}

REQUEST_PLANS: dict[type, Callable[[Cluster, Any], request_handlers.Apply]] = {
    requests.Restart: request_handlers.plan_restart,
    requests.Scale: request_handlers.plan_scale,
    requests.Shutdown: request_handlers.plan_shutdown,
    requests.StartGroup: request_handlers.plan_start_group,
    requests.ExitNow: request_handlers.plan_exit,
    requests.Upgrade: request_handlers.plan_upgrade,
    requests.Rollback: request_handlers.plan_rollback,
    requests.Cancel: request_handlers.plan_cancel,
    requests.Reload: spec_reload.plan_reload,
    requests.Test: request_handlers.plan_test,
}
"""Type of request -> its plan, which returns the function that applies the request."""

BATCH_LIMIT = 500
"""Most facts in one step."""

_BATCHED_FACTS = (
    facts.Spawned, facts.SpawnFailed, facts.Exited, facts.Output, facts.Listening, facts.Ready, facts.Notified,
)  # fmt: skip


def split_into_steps(arrived: Iterable[Any]) -> Iterator[list[Any]]:
    """Yield the facts of each step, in the order of *arrived*.

    The time of a step is proportional to the number of workers, so facts about different workers share a step: 300
    workers that exit together must not take 300 steps. Two facts about one worker do not share a step, because a worker
    that became ready and then exited has served; only its last output and its exit do. A fact that is not about a
    worker has its own step.
    """
    batch: list[Any] = []
    last: dict[int, Any] = {}
    for fact in arrived:
        worker = getattr(fact, "worker", None) if isinstance(fact, _BATCHED_FACTS) else None
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
