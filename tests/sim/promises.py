"""The promises of the design, checked against what really happens on the machine, not what the master believes.

A ``CheckedWorld`` raises ``Broken`` at the action that breaks a promise, with the story so far. It also keeps a *twin*
of the core, restored from its notebook, which must decide the same in every turn.
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from cluster_service.core.engine.cluster import Cluster
from cluster_service.core.protocol import actions, event_records
from cluster_service.core.protocol.requests import Rejected, Restart, Rollback, Upgrade
from cluster_service.core.readout import saved_state, serializers
from cluster_service.core.readout.serializers import status_line
from cluster_service.testing import World
from cluster_service.wire import facts, orders

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from cluster_service.core.model.cluster_state import Operation
    from cluster_service.core.model.spec import GroupSpec, Spec
    from cluster_service.testing import Process, Program

Place = tuple[str, int]
"""A group's name and a slot's number."""

PERIOD = 60.0
UNNOTICED = 1.0
"""Seconds of a suspension that the core may take for ordinary lateness."""

EPSILON = 1e-6


class Broken(AssertionError):
    """A promise was broken."""


@dataclass
class Announced:
    """A worker was asked to end."""

    age: float
    """Seconds for which its process had run."""
    timeout: float


class CheckedWorld(World):
    """A world that holds the service to its promises."""

    def __init__(self, spec: Spec, programs: Mapping[str, Program]) -> None:
        self.spawned: set[int] = set()
        self.announced: dict[int, Announced] = {}
        self.restarts: dict[tuple[Place, int], list[float]] = defaultdict(list)
        self.suspensions = 0
        self.twin: Cluster | None = None
        self.failed = False
        """A promise was broken, or the core raised: what comes after that means nothing."""
        self.late = False
        """The master did not run for a while and has not turned since: it and a twin may forgive different times."""
        self.working: set[Place] = set()
        self.excused: set[Place] = set()
        self.proven: set[str] = set()
        """Groups of which a worker has been known to say when it is ready: from then on none is guessed to be."""
        super().__init__(spec, dict(programs))
        self.kernel.on_order = self._order
        self.kernel.on_exit = self._exit
        self.kernel.on_children_killed = self._children_killed

    # What the world does, watched.

    def suspend(self, seconds: float) -> None:
        self.suspensions += 1
        self.late, self.twin = True, None
        super().suspend(seconds)

    def hang_master(self, seconds: float) -> None:
        self.late, self.twin = True, None
        super().hang_master(seconds)

    def signal(self, name: str) -> None:
        self.restarts.clear()  # HUP restarts all
        super().signal(name)

    def request(self, request: Any) -> Operation:
        operation = super().request(request)
        if isinstance(request, (Restart, Upgrade, Rollback)):  # an operator who asks for one begins a new count
            self.restarts.clear()
        return operation

    def _turn(self, event: Any) -> None:
        try:
            super()._turn(event)
        except Rejected:
            raise
        except Exception:
            self.failed = True
            raise

    def _decide(self, cluster: Cluster, event: Any) -> list[actions.Action]:
        if isinstance(event, facts.Refused):
            self._judge_refusal(event)
        if isinstance(event, facts.Snapshot):
            self.twin = None
        twin, self.late = self.twin, False
        answers = super()._decide(cluster, event)
        if twin is not None:
            self._compare(cluster, twin, event, answers, twin.handle(event, self.clock.now))
        return answers

    def _request(self, cluster: Cluster, request: Any) -> tuple[Operation, list[actions.Action]]:
        before = everything(cluster, self.clock.now)
        twin, self.late = self.twin, False
        expected: Any = None
        if twin is not None:
            try:
                expected = twin.request(request, self.clock.now)
            except Rejected as rejected:
                expected = str(rejected)
        try:
            operation, answers = super()._request(cluster, request)
        except Rejected as rejected:
            if everything(cluster, self.clock.now) != before:
                self.broken(f"{request} was refused, and has changed something")
            if rejected.code == "internal":
                self.broken(f"{request} could not be examined: {rejected}")
            if twin is not None and str(rejected) != expected:
                self.broken(f"the core restored from its notebook answers {request} with {expected}, not {rejected!r}")
            raise
        if operation not in cluster.operations or (twin is not None and expected[0].id != operation.id):
            self.broken(f"{request} is answered with {operation}")
        if twin is not None:
            self._compare(cluster, twin, request, answers, expected[1])
        return operation, answers

    def _compare(self, cluster: Cluster, twin: Cluster, event: Any, answers: object, expected: object) -> None:
        if answers != expected:
            self.broken(f"the core restored from its notebook answers {event} with\n{expected}\nnot\n{answers}")
        if cluster.deadline() != twin.deadline():
            self.broken(f"the restored core waits until {twin.deadline()}, not {cluster.deadline()}")

    def _order(self, order: Any) -> None:
        """Look at an order that reaches the guardian."""
        if not isinstance(order, orders.Spawn):
            return
        if order.worker <= max(self.spawned, default=0):
            self.broken(f"the number {order.worker} is used again")
        self.spawned.add(order.worker)
        place = (order.meta["group"], order.meta["slot"])
        if order.meta["reason"] == "failure":
            self._check_rate(place, order.meta["generation"])

    def _exit(self, process: Process) -> None:
        if "stop" not in process.state.signals:
            self.excused.add(place_of(process))

    def _children_killed(self, process: Process) -> None:
        """What a worker left that was asked to end has the same time as the worker."""
        announced = self.announced.get(process.worker)
        if announced is None or "stop" not in process.state.signals:
            return
        had = process.age - announced.age
        if had < announced.timeout - UNNOTICED * self.suspensions - EPSILON:
            self.broken(f"what {process} left is killed after {had:g} s, {announced.timeout:g} s were announced")

    def _carry_out(self, action: actions.Action) -> None:
        check = self._CHECKS.get(type(action))
        if check is not None:
            check(self, action)
        super()._carry_out(action)

    # The checks.

    def broken(self, sentence: str) -> None:
        self.failed = True
        raise Broken(f"{sentence}\n{self.cluster!r}\n{self.story()}")

    def group_of(self, name: str) -> GroupSpec:
        assert self.cluster is not None
        return self.cluster.groups[name].spec

    def wanted(self) -> set[Place]:
        """The slots that there should be, but for those of dark canaries."""
        assert self.cluster is not None
        return {(name, number) for name, group in self.cluster.groups.items() for number in group.slots}

    def wanted_dark(self) -> set[Place]:
        """The slots of dark canaries that there should be."""
        assert self.cluster is not None
        groups = self.cluster.groups.items()
        return {(name, 0) for name, group in groups if group.rollout is not None and group.rollout.stage == "dark"}

    def staying(self, place: Place) -> list[Process]:
        return [process for process in self.alive(*place) if "stop" not in process.state.signals]

    def _check_start(self, action: actions.Start) -> None:
        place = (action.group, action.slot)
        if place not in self.wanted() | self.wanted_dark():
            self.broken(f"{place} is started and not wanted")
        if action.private != (action.slot == 0):
            self.broken(f"{place} is started with private={action.private}")
        there = self.staying(place)
        if self.group_of(action.group).singleton and self.alive(action.group):
            self.broken(f"{action.group} is a singleton, has {self.alive(action.group)}, and gets one more")
        left = [each for each in self.kernel.processes.values() if each.children_left]
        if self.group_of(action.group).singleton and any(place_of(each)[0] == action.group for each in left):
            self.broken(f"{action.group} is a singleton, its last worker has left {left}, and it gets one more")
        if any(place_of(each) == place and self._in_background(each) for each in left):
            self.broken(f"{place} has put itself into the background, and gets one more")
        if len(there) > 1:
            self.broken(f"{place} has {there} and gets one more")
        if there and there[0].spawn.meta["generation"] == action.generation and not self._is_retired(there[0]):
            self.broken(f"{place} has {there} and gets another of generation {action.generation}")
        slots = [each for each in self.wanted() if each[0] == action.group]
        surge = max(1, int(len(slots) * 0.33))
        total = sum(len(self.staying(each)) for each in slots)
        if there and total + 1 > len(slots) + surge:
            self.broken(f"{action.group} of {len(slots)} has {total} workers that stay, and gets one more")

    def _in_background(self, process: Process) -> bool:
        worker = self.cluster.workers.get(process.worker) if self.cluster is not None else None
        return worker is not None and process.children_left and process.state.code == 0 and not worker.stop_reason

    def _is_retired(self, process: Process) -> bool:
        """Whether it is to be replaced by another of its kind: it hangs, or is recycled."""
        worker = self.cluster.workers.get(process.worker) if self.cluster is not None else None
        return worker is not None and bool(worker.retire)

    def _check_rate(self, place: Place, generation: int) -> None:
        policy = self.group_of(place[0]).restart
        if not policy.auto_restart:
            self.broken(f"{place} is restarted, and nothing is to be restarted")
        recent = self.restarts[place, generation]  # a slot that is turned back is not to blame for the newer release
        recent.append(self.clock.now)
        within = [at for at in recent if at > self.clock.now - PERIOD + EPSILON]
        # the policy counts failures, and a restart comes up to 5 s after one: a minute may hold one restart more
        if len(within) > policy.per_minute + 1:
            self.broken(f"{place} was restarted {len(within)} times in a minute, {policy.per_minute} are allowed")

    def _check_stop(self, action: actions.Stop) -> None:
        process = self.kernel.processes.get(action.worker)
        if process is None or process.exited or "stop" in process.state.signals:
            return  # it knows, or the news of its end is on the way
        first = self.announced.get(action.worker)
        timeout = action.timeout if first is None else max(first.timeout, action.timeout)
        self.announced[action.worker] = Announced(process.age, timeout)
        place = place_of(process)
        if place not in self.wanted():
            self.excused.add(place)
        elif action.reason == "failure":
            self._check_slow_boot(process)
        elif action.reason == "hang":
            if not process.hung:
                self.broken(f"{process} is asked to end for a hang, and it does not hang")
            self.excused.add(place)  # where nothing is to be restarted, nothing takes its place
        elif self.group_of(place[0]).singleton:
            self.excused.add(place)
        elif process.serving and not self._successors(process):
            self.broken(f"{process} is asked to end ({action.reason}), and no successor serves")

    def _check_slow_boot(self, process: Process) -> None:
        allowed = self.group_of(place_of(process)[0]).ready_timeout - UNNOTICED * self.suspensions
        took = process.age if process.served_after is None else process.served_after
        if took < allowed - EPSILON:
            self.broken(f"{process} is asked to end for a slow boot: it had {took:g} s of {allowed:g} s")

    def _successors(self, old: Process) -> list[Process]:
        """Who may take the place of *old*: it serves, or that it does not is something that the master cannot know."""
        unread = {fact.worker for fact in self.kernel.facts if isinstance(fact, facts.Exited)}
        group, slot = place_of(old)
        return [
            process
            for process in self.kernel.processes.values()
            if place_of(process) == (group, slot)
            and process is not old
            and "stop" not in process.state.signals
            and (process.serving or process.hung or process.worker in unread or group not in self.proven)
        ]

    def _check_kill(self, action: actions.Kill) -> None:
        process = self.kernel.processes.get(action.worker)
        if process is None or process.exited:
            return
        announced = self.announced.get(action.worker)
        if announced is None or "stop" not in process.state.signals:
            self.broken(f"{process} is killed, and nobody had asked it to end")
            return
        had = process.age - announced.age
        if had < announced.timeout - UNNOTICED * self.suspensions - EPSILON:
            self.broken(f"{process} is killed after {had:g} s, and {announced.timeout:g} s were announced")

    def _check_forget(self, action: actions.Forget) -> None:
        process = self.kernel.processes.get(action.worker)
        if process is not None and not process.exited:
            self.broken(f"{process} is forgotten alive")

    def _check_end(self, action: actions.End) -> None:
        if not action.now and self.kernel.alive():
            self.broken(f"the service ends while {self.kernel.alive()} live")
        left = [each for each in self.kernel.processes.values() if each.children_left]
        if not action.now and left:
            self.broken(f"the service ends while what {left} left lives")

    def _check_publish(self, action: actions.Publish) -> None:
        event = action.event
        if isinstance(event, event_records.WorkerReady) and event.by != "alive":
            self.proven.add(event.group)

    _CHECKS: ClassVar[dict[type, Callable[[CheckedWorld, Any], None]]] = {
        actions.Start: _check_start,
        actions.Stop: _check_stop,
        actions.Kill: _check_kill,
        actions.Forget: _check_forget,
        actions.End: _check_end,
        actions.Publish: _check_publish,
    }

    def _judge_refusal(self, refused: facts.Refused) -> None:
        process = self.kernel.processes.get(refused.worker or 0)
        if refused.order in {"tell", "signal"} and (process is None or process.exited):
            return  # it ended before the order arrived
        self.broken(f"an order was refused: {refused}")

    def check(self) -> None:
        """Hold the machine as it is now to the promises, and renew the twin. Call it between steps."""
        if self.kernel.orphans:
            self.broken(f"something that {self.kernel.orphans} started is left over")
        if self.cluster is None:
            self.twin = None
            return
        working = {place_of(each) for each in self.serving() if "stop" not in each.state.signals}
        if self.ended is None and self.answers and not self.kernel.facts:
            hung = {place_of(each) for each in self.alive() if each.hung}
            lost = (self.working - working - self.excused - hung) & self.wanted()
            if lost:
                self.broken(f"{lost} worked, nobody died, and they do not work any more")
            self.excused.clear()
        self.working = working
        for place, generation in list(self.restarts):
            if place not in self.wanted():
                del self.restarts[place, generation]
        self._renew_twin()

    def _renew_twin(self) -> None:
        cluster = self.cluster
        if cluster is None or not self.answers or self.late or self.kernel.facts:
            return
        deadline = cluster.deadline()
        if deadline is not None and deadline <= self.clock.now:
            return  # the machine was suspended and the master has not turned since
        self.twin = Cluster.restore(self.spec, json.loads(json.dumps(cluster.checkpoint())))
        wanted = [
            action
            for action in self.twin.handle(self.kernel.snapshot(), self.clock.now)
            if not isinstance(action, (actions.Publish, actions.Check, actions.RunTest))  # those are safe to repeat
        ]
        if wanted:
            self.broken(f"nothing has happened, and the core restored from its notebook orders {wanted}")


def everything(cluster: Cluster, now: float) -> str:
    """What is saved of *cluster* and what it shows, to the byte."""
    return json.dumps(
        {
            "notebook": cluster.checkpoint(),
            "state": saved_state.write_saved_state(cluster, 0.0),
            "deadline": cluster.deadline(),
            "pace": cluster.sample_interval(),
            "workers": serializers.worker_rows(cluster, now),
            "health": serializers.health_summary(cluster),
            "groups": serializers.group_summaries(cluster),
            "operations": [serializers.operation_row(cluster, operation, now, 0.0) for operation in cluster.operations],
            "standing": status_line(cluster),
        }
    )


def place_of(process: Process) -> Place:
    return process.spawn.meta["group"], process.spawn.meta["slot"]
