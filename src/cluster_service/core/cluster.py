"""The whole service as one pure, level-triggered machine: events in, actions out.

Two laws. Requests only edit what is *wanted* (``group.Slot.generation``, the slots that exist); facts only edit what is
*seen* (``worker.Worker``). Then each turn compares the two and orders the difference, until nothing changes. No
procedure spans two turns: whoever restores the notebook and hears the guardian's snapshot can go on from anywhere.

    actions = cluster.receive(event, now)      now: monotonic seconds
    at = cluster.deadline()                    when to come back with a Tick, at the latest
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from cluster_service.wire import facts

from . import actions, events, judge, reports, requests, rollouts, seen, wanted, watch
from .group import Group
from .operations import Operation
from .rollout import plan_slot, replacing, surge
from .spec import GIVE_UP_CODE, Spec
from .stages import KINDS, LIVE
from .worker import Worker, readiness

if TYPE_CHECKING:
    from collections.abc import Callable

    from .group import Slot

LATE = 1.0
"""Seconds by which a turn may miss its deadline before we conclude that we were suspended or starved."""

PULSE = 2.0
"""Seconds between two turns, at most, while the time of some worker is running: so no suspension goes unnoticed."""

LINGER = 1.0
"""Seconds for which a shared socket without users stays open, once every slot serves."""

BOOT_STOP = 10.0
"""Seconds that a worker which was never ready has to end."""


class Cluster:
    """A service: its groups, its workers and its operations."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.groups = {group.name: Group.new(group) for group in spec.groups}
        self.workers: dict[int, Worker] = {}
        self.operations: list[Operation] = []
        self.last_worker = 0
        self.operation_count = 0
        self.subject = ""
        """The id of the operation that the last request was about."""
        self.ending = ""
        """Why the service ends (shutdown, failure, exit); empty while it goes on."""
        self.end_code = 0
        self.drain_at: float | None = None
        """When the workers of a service that ends are asked to end too: until then they serve on."""
        self.ended = False
        self.begun = False
        self.unused: dict[str, float | None] = {}
        """The addresses of the shared sockets, and since when each has had no user (None: it has)."""
        self.sampled_at = 0.0
        """When the board was last read."""
        self._now = 0.0
        self.judging_time = False
        """Whether this turn may judge a worker's time to be over: a Tick's only, for facts may be unread."""
        self.todo: list[actions.Action] = []
        """What this turn has ordered so far."""

    # -- the three calls ----------------------------------------------------------------------------------------------

    def receive(self, event: Any, now: float) -> list[actions.Action]:
        """Take in *event* (a fact, a request or ``Tick``) at *now* and return what is to be done.

        Raises Rejected for a request that cannot be carried out; then nothing was changed. Facts that are not the
        core's business (Ping, Message, Refused) are ignored.
        """
        self.todo = []
        self.judging_time = isinstance(event, requests.Tick)
        self._forgive(now)
        if self.ended:
            return [self._end()] if isinstance(event, facts.Snapshot) else []
        handler = HANDLERS.get(type(event))
        if handler is not None:
            handler(self, event, now)
        self._now = max(now, self._now)
        if not self.ended:
            self._turn(now)
        return self.todo

    def deadline(self) -> float | None:
        """When the core wants a ``Tick`` if nothing else happens; None: never. Monotonic seconds."""
        if self.ended:
            return None
        deadlines = [worker.deadline for worker in self.workers.values() if worker.deadline is not None]
        times = [since + LINGER for since in self.unused.values() if since is not None]
        for worker in self.workers.values():
            after = self._ready_after(worker)
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
        return min(times, default=None)

    def snapshot(self) -> dict[str, Any]:
        """The notebook: all that cannot be learned from the guardian. JSON-able."""
        return {
            "groups": [group.to_json() for group in self.groups.values()],
            "workers": [vars(worker) for worker in self.workers.values()],
            "operations": [operation.to_json() for operation in self.operations],
            "unused": dict(self.unused),
            **{key: getattr(self, key) for key in _KEPT},
            "now": self._now,
        }

    @classmethod
    def restore(cls, spec: Spec, data: dict[str, Any]) -> Cluster:
        """Inverse of ``snapshot`` after a trip through JSON. The next event must be the guardian's Snapshot."""
        cluster = cls(spec)
        cluster.groups = {group["spec"]["name"]: Group.from_json(group) for group in data["groups"]}
        cluster.workers = {worker["number"]: Worker(**worker) for worker in data["workers"]}
        cluster.operations = [Operation(**operation) for operation in data["operations"]]
        cluster.unused = dict(data["unused"])
        for key in _KEPT:
            setattr(cluster, key, data.get(key, getattr(cluster, key)))
        cluster._now = data["now"]
        return cluster

    # -- reading ------------------------------------------------------------------------------------------------------

    @property
    def last_operation(self) -> Operation:
        """The operation that the last request was about. Raises LookupError when there has been none."""
        return self.operation(self.subject)

    def operation(self, identity: str) -> Operation:
        """The operation of that id. Raises LookupError."""
        for operation in self.operations:
            if operation.id == identity:
                return operation
        raise LookupError(identity)

    def watching(self) -> bool:
        """Whether samples of the board are wanted, every ``watch.PACE`` seconds."""
        return any(group.rollout is not None and group.rollout.stage in LIVE for group in self.groups.values())

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
        """Want no worker any more; the service ends with exit code *code* when none is left."""
        self.ending, self.end_code, self.drain_at = reason, code, None
        for group in self.groups.values():
            group.leave_reason = "shutdown"
            group.rollout = None
            group.slots.clear()

    # -- the turn: order the difference -------------------------------------------------------------------------------

    def _forgive(self, now: float) -> None:
        """Where we were not running, nobody is to be killed for the time that passed: it was not theirs either."""
        expected = self.deadline()
        if expected is None or now <= expected + LATE:
            return
        lost = now - self._now
        for worker in self.workers.values():
            if worker.deadline is not None and worker.state != "gone":
                worker.deadline += lost
            if worker.state == "starting":
                worker.since += lost  # nor has it been alive for that long
        for group in self.groups.values():
            if group.rollout is not None and group.rollout.due is not None:
                group.rollout.due += lost  # nor has anybody been seen to be healthy

    def _turn(self, now: float) -> None:
        if self.drain_at is not None and self.judging_time and now >= self.drain_at:
            self.end_service(self.ending, self.end_code)
        for _ in range(100):
            before = len(self.todo)
            for worker in list(self.workers.values()):
                self._age(worker, now)
            for group in self.groups.values():
                rollouts.steer(self, group, now)
                self._reconcile(group, now)
            for operation in self.running():
                if operation.kind not in KINDS and operation.kind != "test":
                    judge.judge(self, operation, now)
            if len(self.todo) == before:
                break
        self._close_unused(now)
        self._end_when_empty(now)

    def _age(self, worker: Worker, now: float) -> None:
        """Do what is due for *worker* because of what it said, or because its time is over."""
        due = self.judging_time and worker.deadline is not None and now >= worker.deadline
        if worker.group not in self.groups:  # the notebook was lost, and with it the group
            self.stop(worker, BOOT_STOP, "shutdown", now)
        if worker.state == "starting" and worker.group in self.groups:
            by = readiness(worker, only_told=self._only_told(worker), ready_after=self._ready_after(worker), now=now)
            if by is not None:
                self._ready(worker, by, now)
            elif due:
                worker.verdict = f"was not ready within {worker.ready_timeout:g} s"
                seen.fail(self, worker, now)
                self.stop(worker, min(BOOT_STOP, self._stop_timeout(worker)), "failure", now)
        elif worker.state in ("draining", "stopping") and due:
            worker.move("kill")
            worker.deadline = None
            self.todo.append(actions.Kill(worker.number))
            self.publish(events.WorkerKill(worker.group, worker.slot, worker.pid or 0, worker.stop_reason))
        elif worker.state == "gone" and due:
            seen.bury(self, worker, [], now)

    def _ready(self, worker: Worker, by: str, now: float) -> None:
        worker.move("ready")
        worker.ready_at, worker.deadline = now, None
        group = self.groups[worker.group]
        group.prove(worker)
        self.publish(events.WorkerReady(worker.group, worker.slot, worker.pid or 0, by, round(now - worker.since, 3)))
        slot = group.slots.get(worker.slot)
        if slot is not None and slot.generation == worker.generation and slot.broken:
            slot.broken = False
            self.publish(events.SlotRecovered(worker.group, worker.slot))
        for operation in self.running():
            watched = group.rollout is not None and group.rollout.stage == "canary"  # that tells of it itself
            if operation.concerns(worker.group, worker.slot) and not watched:
                judge.step(self, operation, f"{worker.name} (pid {worker.pid}) is serving", now)

    def _reconcile(self, group: Group, now: float) -> None:
        """Order the difference between the slots of *group* and its workers."""
        workers = self.of_group(group.name)
        slots = {slot.number: slot for slot in group.wanted_slots()}
        for worker in workers:
            if worker.slot not in slots:
                self.stop(worker, self._stop_timeout(worker), _why_dropped(group, worker), now)
        wanting: list[tuple[int, int, str]] = []
        for slot in slots.values():
            of_slot = [worker for worker in workers if worker.slot == slot.number]
            plan = plan_slot(slot.generation, of_slot, hold=slot.hold)
            for worker in plan.stop:
                reason = _why_replaced(group, worker, slot)
                self.stop(worker, self._stop_timeout(worker), reason, now)
            if plan.wants != "nothing":
                wanting.append((slot.history.streak, slot.number, plan.wants))
        for _, number, wants in sorted(wanting):
            if self._may_start(group, slots[number], wants, now):
                self._start(group, slots[number], now)

    def _may_start(self, group: Group, slot: Slot, wants: str, now: float) -> bool:
        at = group.next_try(slot)
        workers = self.of_group(group.name)
        booting = [worker for worker in workers if worker.booting]
        if at is None or at > now:
            return False
        if group.trying(slot.generation) and any(worker.generation == slot.generation for worker in booting):
            return False
        if group.at_a_time and len(booting) >= group.at_a_time:
            return False
        wanted = {each.number: each.generation for each in group.slots.values()}
        return wants == "start" or replacing(wanted, workers) < surge(len(group.slots))

    def _start(self, group: Group, slot: Slot, now: float) -> None:
        number = slot.number
        self.last_worker += 1
        worker = Worker(self.last_worker, group.name, number, slot.generation, slot.reason, now)
        worker.ready_timeout = slot.timeout or group.spec.ready_timeout
        slot.restarts += slot.reason == "failure"
        self.workers[worker.number] = worker
        what = (worker.number, group.name, number, slot.generation, slot.reason)
        self.todo.append(actions.Start(*what, private=number == 0))

    def stop(self, worker: Worker, timeout: float, reason: str, now: float) -> None:
        """Ask *worker* to end within *timeout* seconds, unless it has been asked already."""
        if not worker.can("stop"):
            return
        worker.move("stop")
        worker.stop_reason, worker.deadline = reason, now + timeout
        self.todo.append(actions.Stop(worker.number, timeout, reason))
        self.publish(events.WorkerStop(worker.group, worker.slot, worker.pid or 0, reason, timeout))

    # -- ports and the end --------------------------------------------------------------------------------------------

    def _close_unused(self, now: float) -> None:
        """Close the shared sockets that nobody uses any more, once every slot serves: until then somebody may."""
        if self.ending:
            return
        used = {address for worker in self.workers.values() if worker.state != "gone" for address in worker.addresses}
        for group in self.groups.values():
            used |= {bind for release in group.releases.values() for bind in release.binds}
        settled = all(self._settled(group) for group in self.groups.values())
        for address, since in list(self.unused.items()):
            if address in used or not settled:
                self.unused[address] = None
            elif since is None:
                self.unused[address] = now
            elif now >= since + LINGER:
                del self.unused[address]
                self.todo.append(actions.CloseListener(address))
                self.publish(events.PortClosed(address))

    def _settled(self, group: Group) -> bool:
        if group.rollout is not None:
            return False  # the old release may be wanted again, with its ports
        workers = self.of_group(group.name)
        serving = {(worker.slot, worker.generation) for worker in workers if worker.serving}
        wanted = {(slot.number, slot.generation) for slot in group.slots.values()}
        return wanted <= serving and not any(worker.booting for worker in workers)

    def _end_when_empty(self, now: float) -> None:
        slots = [slot for group in self.groups.values() for slot in group.slots.values()]
        if self.spec.give_up == "all-broken" and not self.ending and slots and all(slot.broken for slot in slots):
            for operation in self.running():
                judge.finish(self, operation, "failed", "every slot is broken: the service gave up", now)
            self.end_service("failure", GIVE_UP_CODE)
            for group in self.groups.values():
                self._reconcile(group, now)
        if self.ending and self.drain_at is None and not self.workers:
            self.ended = True
            self.todo.append(self._end())

    def _end(self) -> actions.End:
        return actions.End(self.end_code, now=self.ending == "exit")

    # -- small things -------------------------------------------------------------------------------------------------

    def publish(self, event: events.Event) -> None:
        """Tell the world of *event*."""
        self.todo.append(actions.Publish(event))

    def _only_told(self, worker: Worker) -> bool:
        group = self.groups.get(worker.group)
        release = group.releases.get(worker.generation) if group else None
        return release is not None and release.kind == "app"

    def _ready_after(self, worker: Worker) -> float | None:
        """Seconds alive that make *worker* ready; None where workers of its group have been known to say so."""
        group = self.groups.get(worker.group)
        if group is None or self._only_told(worker):
            return None
        silent = bool(worker.bound) and not group.relistens  # it may take its port for ready as it is
        if group.ready_by and not silent:
            return None
        return group.spec.ready_after

    def _stop_timeout(self, worker: Worker) -> float:
        group = self.groups.get(worker.group)
        if worker.stop_timeout is not None:
            return worker.stop_timeout
        slot = group.slots.get(worker.slot) if group else None
        if slot is not None and slot.timeout is not None:
            return slot.timeout
        return group.spec.stop_timeout if group else BOOT_STOP


def _why_dropped(group: Group, worker: Worker) -> str:
    """The reason that a worker whose slot is not there any more is told; slot 0 is a dark canary's."""
    return group.leave_reason if worker.slot else worker.reason


def _why_replaced(group: Group, worker: Worker, slot: Slot) -> str:
    """The reason that a worker which its slot does not want any more is told."""
    if group.rollout is not None and group.rollout.undoing:
        return "rollback"
    if slot.reason in KINDS:
        return slot.reason
    return "restart" if worker.generation < slot.generation else "rollback"


_KEPT = ("last_worker", "operation_count", "subject", "sampled_at", "ending", "end_code", "drain_at", "ended", "begun")

HANDLERS: dict[type, Callable[[Cluster, Any, float], None]] = {
    facts.Snapshot: seen.snapshot,
    facts.Spawned: seen.spawned,
    facts.SpawnFailed: seen.spawn_failed,
    facts.Exited: seen.exited,
    facts.Output: seen.output,
    facts.Listening: seen.listening,
    facts.ListenFailed: seen.listen_failed,
    facts.Ready: seen.ready,
    facts.Notified: seen.notified,
    facts.Signalled: seen.signalled,
    requests.Restart: wanted.restart,
    requests.Scale: wanted.scale,
    requests.Shutdown: wanted.shutdown,
    requests.StartGroup: wanted.start_group,
    requests.ExitNow: wanted.exit_now,
    requests.Upgrade: wanted.upgrade,
    requests.Rollback: wanted.rollback,
    requests.Cancel: wanted.cancel,
    requests.Test: wanted.test,
    reports.Checked: rollouts.checked,
    reports.Tested: rollouts.tested,
    reports.Said: rollouts.said,
    reports.Sample: watch.sample,
    requests.Tick: lambda _cluster, _tick, _now: None,
}
