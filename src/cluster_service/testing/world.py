"""A service on a simulated machine: the real core, driven as by the real master, on a FakeKernel.

Invariants:

- One step of the master is: pass one event to the core; if it returns actions, send the checkpoint, then carry out the
  actions in order.
- A master may die between any two of these. Everything it sent has been carried out, the rest has not; facts that it
  received but did not record in the checkpoint are in the snapshot of its successor.
- Time passes only in ``run`` and ``run_until*``, and jumps only in ``suspend``.

A world records what happened; ``story()`` returns it, one line per occurrence.
"""

from __future__ import annotations

import json
from collections import deque
from dataclasses import dataclass
from signal import SIGKILL, SIGTERM
from typing import TYPE_CHECKING, Any

from cluster_service.core.engine.cluster import Cluster
from cluster_service.core.model.spec import GroupSpec, Release, Spec
from cluster_service.core.model.upgrade_state import LIVE_STAGES
from cluster_service.core.protocol import actions, reports
from cluster_service.core.protocol.requests import Tick
from cluster_service.wire import facts, orders

from .fake_kernel import FakeKernel, Table
from .virtual_time import Clock

if TYPE_CHECKING:
    from collections.abc import Callable

    from cluster_service.core.model.cluster_state import Operation
    from cluster_service.core.protocol.event_records import Event
    from cluster_service.core.protocol.requests import Request

    from .simulated_programs import Process, Program
    from .virtual_time import Timer

TURNS_AT_ONE_TIME = 1000
"""Maximum number of steps without any time passing; more than this is an endless loop."""

JOB_TAKES = 0.3
"""Duration of a check or a test, in seconds."""

MASTER_BACK_IN = 0.1
"""Seconds until the guardian has started the next master."""

MASTER_HANG_TIMEOUT = 30.0
"""Seconds after which the guardian replaces an unresponsive master."""


class MasterAway(Exception):
    """The master is dead or unresponsive and cannot take a request."""


class _MasterDied(Exception):
    """The fault set by ``kill_master`` was reached within a step."""


@dataclass(frozen=True)
class Occurrence:
    """One recorded occurrence. *kind*: fact, order, report, event, request or world."""

    at: float
    kind: str
    what: Any

    def __str__(self) -> str:
        what = self.what
        if isinstance(what, orders.Spawn):
            what = f"Spawn(worker={what.worker}, argv={what.argv}, {what.meta})"
        elif isinstance(what, facts.Snapshot):
            workers = ", ".join(
                f"{state['worker']}{' exited' if state['exited'] else ''} {'/'.join(state['signals'])}".strip()
                for state in what.workers
            )
            what = f"Snapshot(workers: {workers or 'none'}; last {what.last_worker}; master {what.master_starts})"
        return f"{self.at:10.3f}  {self.kind:8} {what}"


class World:
    """A service, from its first master on.

    *spec* names releases. ``programs[release.target]`` is what a release does: a Program, or a function that returns
    one for a Spawn order. It may be replaced at any time, as files on a disk may. ``flaws[release.target]`` is the
    reason why its code cannot run, and ``failures[script]`` why a test fails; a missing entry means success.
    """

    def __init__(self, spec: Spec, programs: Table, clock: Clock | None = None) -> None:
        self.spec = spec
        self.clock = clock or Clock()
        self.programs = dict(programs)
        self.kernel = FakeKernel(self.clock, self.programs)
        self.flaws: dict[str, str] = {}
        self.failures: dict[str, str] = {}
        self.cluster: Cluster | None = None
        """The core of the living master; None while no master runs."""
        self.hung = False
        self.asked = ""
        """Id of the operation of the last request."""
        self.history: list[Occurrence] = []
        self.events: list[Event] = []
        self._hooks: list[Callable[[Event], None]] = []
        self._fuse: int | None = None
        self._hang: Timer | None = None
        self._master = 0
        self._reports: deque[Any] = deque()
        self._jobs: dict[str, Timer] = {}
        self._sampled = self.clock.now
        self._start_master()

    @classmethod
    def of(cls, count: int, program: Program, **settings: Any) -> World:
        """Return a world with one group, ``web``, of *count* workers that run *program*. *settings*: of GroupSpec."""
        group = GroupSpec("web", count, Release("script", "app"), **settings)
        return cls(Spec("default", (group,)), {"app": program})

    def __repr__(self) -> str:
        master = "hung" if self.hung else "dead" if self.cluster is None else repr(self.cluster)
        return f"<World at {self.clock.now:.3f}: {self.kernel!r} {master}>"

    # Observing.

    @property
    def ended(self) -> int | None:
        """Exit code of the service; None until it has ended."""
        return self.kernel.ended

    @property
    def answers(self) -> bool:
        """True if a master is alive and responsive."""
        return self.cluster is not None and not self.hung and self.ended is None

    def alive(self, group: str | None = None, slot: int | None = None) -> list[Process]:
        """Return the running processes, oldest first."""
        return [
            process
            for process in self.kernel.alive()
            if group in (None, process.spawn.meta["group"]) and slot in (None, process.spawn.meta["slot"])
        ]

    def serving(self, group: str | None = None, slot: int | None = None) -> list[Process]:
        """Return the processes that actually serve, regardless of the master's state; oldest first."""
        return [process for process in self.alive(group, slot) if process.serving]

    def story(self, last: int = 200) -> str:
        """Return the last occurrences as text."""
        return "\n".join(str(occurrence) for occurrence in self.history[-last:])

    def on(self, hook: Callable[[Event], None]) -> None:
        """Call *hook* with each event published from now on."""
        self._hooks.append(hook)

    # Acting.

    def request(self, request: Request) -> Operation:
        """Send a request to the master and return its operation. Raises MasterAway, and Rejected as the core does."""
        self._settle()
        if not self.answers or self.cluster is None:
            raise MasterAway
        self._remember("request", request)
        operation, todo = self._request(self.cluster, request)
        self.asked = operation.id
        self._perform(self.cluster, todo)
        self._settle()
        return operation

    def signal(self, name: str) -> None:
        """Send the guardian TERM, INT or HUP."""
        self._remember("world", f"signal {name}")
        self.kernel.signal(name)
        self._settle()

    def report(self, report: Any) -> None:
        """Pass *report* to the master."""
        if self.answers:
            self._reports.append(report)
            self._settle()

    def kill_master(self, after: int = 0, back_in: float = MASTER_BACK_IN) -> None:
        """Kill the master after *after* more actions (a checkpoint, an order or a published event counts as one).

        Its successor starts *back_in* seconds later.
        """
        self._back_in = back_in
        if after == 0:
            self._master_dies()
        else:
            self._fuse = after

    def hang_master(self, seconds: float) -> None:
        """Block the master for *seconds*; it is replaced after ``MASTER_HANG_TIMEOUT``."""
        if not self.answers:
            return
        self._remember("world", f"the master hangs for {seconds:g} s")
        self.hung = True
        master = self._master

        def end() -> None:
            if self._master == master and self.cluster is not None:
                self.hung = False
                if seconds > MASTER_HANG_TIMEOUT:
                    self.kill_master()

        self._hang = self.clock.call_later(min(seconds, MASTER_HANG_TIMEOUT), end)

    def stop_faults(self) -> None:
        """Cancel a pending ``kill_master`` and resume a blocked master."""
        self._fuse = None
        self.hung = False
        if self._hang is not None:
            self._hang.cancel()

    def suspend(self, seconds: float) -> None:
        """Suspend the whole machine for *seconds*."""
        self._remember("world", f"suspended for {seconds:g} s")
        self.kernel.suspend(seconds)

    def run(self, seconds: float) -> None:
        """Let *seconds* pass."""
        self.run_until(lambda: False, seconds)

    def run_until(self, done: Callable[[], bool], within: float) -> bool:
        """Let time pass until *done*, for at most *within* seconds. Return whether it is done."""
        until = self.clock.now + within
        self._settle()
        while not done():
            deadline = self._deadline()
            moved = self.clock.step(until if deadline is None else min(until, deadline))
            if not moved and self.clock.now >= until and (deadline is None or deadline > until):
                return done()
            self._settle()
        return True

    def run_until_quiet(self, within: float = 600.0) -> bool:
        """Let time pass until nothing is due, for at most *within* seconds. Return whether it is quiet."""
        return self.run_until(
            lambda: self.ended is not None
            or (
                self.answers
                and not (self.kernel.facts or self._reports)
                and self.clock.next_due() is None
                and self.cluster is not None
                and self.cluster.deadline() is None
                and not self._watches()
            ),
            within,
        )

    # The master.

    def _deadline(self) -> float | None:
        if not self.answers or self.cluster is None:
            return None
        deadline = self.cluster.deadline()
        pace = self.cluster.sample_interval()
        if pace is None:
            return deadline
        sample = max(self.clock.now, self._sampled + pace)
        return sample if deadline is None else min(deadline, sample)

    def _watches(self) -> bool:
        """Return True if samples of the heartbeats may still cause an action."""
        assert self.cluster is not None
        groups = self.cluster.groups.values()
        if any(group.rollout is not None and group.rollout.stage in LIVE_STAGES for group in groups):
            return True
        watched = {group.name for group in groups if group.spec.hang_timeout}
        return any(each.hung and each.program.beats and each.spawn.meta["group"] in watched for each in self.alive())

    def _settle(self) -> None:
        """Let the master handle everything that is pending or due."""
        for _ in range(TURNS_AT_ONE_TIME):
            if not self.answers or self.cluster is None:
                return
            deadline = self._deadline()
            if self.kernel.facts:
                fact = self.kernel.facts.popleft()
                self._remember("fact", fact)
                self._turn(fact)
            elif self._reports:
                report = self._reports.popleft()
                self._remember("report", report)
                self._turn(report)
            elif (pace := self.cluster.sample_interval()) is not None and self._sampled + pace <= self.clock.now:
                self._sampled = self.clock.now
                self._turn(reports.Sample({each.worker: each.pulse() for each in self.alive()}))
            elif deadline is not None and deadline <= self.clock.now:
                self._turn(Tick())
            else:
                return
        raise AssertionError(f"the master turns without end, its deadline being {self._deadline()}\n{self.story()}")

    def _turn(self, event: Any) -> None:
        cluster = self.cluster
        if cluster is None:
            return
        self._perform(cluster, self._decide(cluster, event))

    def _perform(self, cluster: Cluster, todo: list[actions.Action]) -> None:
        try:
            if todo:
                self._send(orders.Note(json.dumps(cluster.checkpoint())))
            for action in todo:
                self._carry_out(action)
        except _MasterDied:
            self._master_dies()

    def _decide(self, cluster: Cluster, event: Any) -> list[actions.Action]:
        return cluster.handle(event, self.clock.now)

    def _request(self, cluster: Cluster, request: Request) -> tuple[Operation, list[actions.Action]]:
        return cluster.request(request, self.clock.now)

    def _carry_out(self, action: actions.Action) -> None:  # noqa: C901, PLR0912 - one case for each action
        match action:
            case actions.Start():
                self._send(self._spawn(action))
            case actions.Stop(worker, timeout, reason):
                process = self.kernel.processes.get(worker)
                if process is not None and process.spawn.channel:
                    self._send(orders.Tell(worker, {"type": "stop", "timeout": timeout, "reason": reason}))
                self._send(orders.Signal(worker, int(SIGTERM), "stop"))
            case actions.Kill(worker):
                self._send(orders.Signal(worker, int(SIGKILL), "kill", whole_group=True))
            case actions.Sweep(worker, after):
                self._send(orders.Signal(worker, int(SIGKILL), "sweep", whole_group=True, after=after))
            case actions.Forget(worker):
                self._send(orders.Forget(worker))
            case actions.CloseListener(address):
                self._send(orders.Close(address))
            case actions.Check(operation, group, generation):
                self._burn()
                error = self.flaws.get(self._release(group, generation).target, "")
                self._begin_job(operation, reports.Checked(operation, error))
            case actions.RunTest(operation, script=script):
                self._burn()
                self._begin_job(operation, reports.Tested(operation, self.failures.get(script or "", "")))
            case actions.Abandon(operation):
                self._burn()
                self._end_job(operation)
            case actions.Dump(worker, why):
                self._burn()
                process = self.kernel.processes.get(worker)
                if process is not None:
                    label, pid = process.spawn.meta, process.state.pid
                    self._reports.append(reports.Dumped(label["group"], label["slot"], pid, why, ("in its loop",)))
            case actions.Publish(event):
                self._burn()
                self._remember("event", event)
                self.events.append(event)
                for hook in self._hooks:
                    hook(event)
            case actions.Fault(what):
                raise AssertionError(f"{what}\n{self.story()}")
            case actions.End(code):
                self._send(orders.Bye(code))

    def _spawn(self, action: actions.Start) -> orders.Spawn:
        assert self.cluster is not None  # the action comes from this core
        release = self._release(action.group, action.generation)
        return orders.Spawn(
            worker=action.worker,
            argv=[release.target, *release.args],
            env=dict(release.env),
            cwd=release.cwd,
            label=f"{action.group}.{action.slot}",
            meta={
                "group": action.group, "slot": action.slot, "generation": action.generation, "reason": action.reason,
            },
            private=action.private,
            share="seccomp" if release.share == "auto" else release.share,
            channel=release.kind != "command",
        )

    def _release(self, group: str, generation: int) -> Release:
        assert self.cluster is not None  # the action comes from this core
        return self.cluster.groups[group].releases[generation]

    def _begin_job(self, operation: str, report: reports.Checked | reports.Tested) -> None:
        if operation not in self._jobs:
            self._jobs[operation] = self.clock.call_later(JOB_TAKES, lambda: self._job_done(operation, report))

    def _job_done(self, operation: str, report: reports.Checked | reports.Tested) -> None:
        del self._jobs[operation]
        self._reports.append(report)

    def _end_job(self, operation: str) -> None:
        job = self._jobs.pop(operation, None)
        if job is not None:
            job.cancel()

    def _send(self, order: Any) -> None:
        self._burn()
        if not isinstance(order, orders.Note):
            self._remember("order", order)
        self.kernel.receive(order)

    def _burn(self) -> None:
        if self._fuse is None:
            return
        if self._fuse == 0:
            raise _MasterDied
        self._fuse -= 1

    def _master_dies(self) -> None:
        self._fuse = None
        self.hung = False
        if self.cluster is None or self.ended is not None:
            return
        self._remember("world", "the master dies")
        self.cluster = None
        self._reports.clear()
        for operation in list(self._jobs):
            self._end_job(operation)
        self.kernel.disconnect()
        self.clock.call_later(self._back_in, self._start_master)

    def _start_master(self) -> None:
        if self.ended is not None:
            return
        self._master += 1
        self._remember("world", f"master {self._master} starts")
        self.kernel.connect()
        notebook = self.kernel.notebook
        self.kernel.receive(orders.Hello())
        if notebook:
            self.cluster = Cluster.restore(self.spec, json.loads(notebook))
            return
        for address in [address for group in self.spec.groups for address in group.release.binds]:
            self.kernel.receive(orders.Listen(address))
        self.cluster = Cluster(self.spec)

    def _remember(self, kind: str, what: Any) -> None:
        self.history.append(Occurrence(self.clock.now, kind, what))
