"""A service under everything that may happen to it, on a simulated machine.

Hypothesis chooses what happens; ``promises.CheckedWorld`` checks every action and the machine after every step; at the
end the faults stop and everything must come to rest as wanted.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from cluster_service.core.model.spec import GroupSpec, Release, RestartPolicy, Spec
from cluster_service.core.protocol import requests
from cluster_service.core.protocol.reports import Due
from cluster_service.core.protocol.requests import (
    Cancel,
    ExitNow,
    Rejected,
    Reload,
    Restart,
    Rollback,
    Scale,
    Shutdown,
    StartGroup,
    Upgrade,
)
from cluster_service.testing import NEVER, MasterAway, Program

from .promises import CheckedWorld, place_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cluster_service.core.engine.cluster import Cluster

T = TypeVar("T")

READY_TIMEOUT = 30.0
STOP_TIMEOUT = 20.0

SETTLE = 900.0
"""Seconds of virtual time after which everything must be at rest: a slot at its slow pace, a hung boot, a rollout."""

KINDS: dict[str, tuple[Release, Program]] = {
    # how the programs of each group say that they are ready
    "web": (Release("script", "web"), Program(ready="listen", addresses=("127.0.0.1:8000",))),
    "api": (Release("app", "api"), Program(ready="told", addresses=("127.0.0.1:9000",))),
    "jobs": (Release("command", "jobs"), Program(ready="notify", addresses=())),
    "plain": (Release("command", "plain"), Program(ready="alive", addresses=())),
}

RELEASES = ("", "2", "3")

GOOD: dict[str, dict[str, Any]] = {
    "good": {},
    "quick": {"boot": 0.2, "stop_takes": 1.0},
    "slow": {"boot": 20.0, "stop_takes": 15.0},
    "stubborn": {"boot": 0.2, "stop_takes": None},
    "messy": {"boot": 0.2, "leaves_children": True},
    "behind a shell": {"boot": 0.2, "leaves_children": True, "children_take": 12.0},
    "leaves one that is stubborn": {"boot": 0.2, "leaves_children": True, "children_take": None},
    "leaky": {"boot": 0.2, "leaks": 1e6},
}
BAD: dict[str, dict[str, Any]] = {
    "broken at import": {"boot": 1.0, "dies_at": 0.3},
    "hangs in start": {"boot": NEVER},
    "not yet, for ever": {"boot": NEVER, "not_yet": True},
    "crashes at once": {"boot": 0.2, "dies_at": 0.5},
    "crashes later": {"boot": 0.2, "dies_at": 13.0},
    "hangs": {"boot": 0.2, "hangs_at": 4.0},
    "hangs, and gives no beat": {"boot": 0.2, "hangs_at": 4.0, "beats": False},
    "answers 500": {"boot": 0.2, "errors_from": 3.0},
    "puts itself into the background": {
        "boot": 0.2,
        "dies_at": 0.5,
        "code": 0,
        "leaves_children": True,
        "background": True,
        "children_take": None,
    },
    "dies of a signal and leaves a mess": {"boot": 0.2, "dies_at": 3.0, "code": None, "leaves_children": True},
}

groups = st.sampled_from(sorted(KINDS))
which = st.integers(min_value=0, max_value=20)
counts = st.integers(min_value=0, max_value=5)
policies = st.sampled_from(
    [RestartPolicy(), RestartPolicy(per_minute=2), RestartPolicy(delay=2.0), RestartPolicy(auto_restart=False)]
)


WRONG = (
    Restart("nobody"), Restart("web.99"), Shutdown("nobody"), Scale("many", "web"), Scale("-9", "web"),
    Scale("9" * 5000, "web"), Scale("2", "nobody"), Rollback("nobody"), Cancel("99999"),
    Upgrade("nobody", KINDS["web"][0]), requests.Test("x", group="nobody"),
)  # fmt: skip
"""Requests that are refused, whatever has happened before."""


def pick(choices: Sequence[T], number: int) -> T:
    return choices[number % len(choices)]


def group(name: str, count: int, restart: RestartPolicy) -> GroupSpec:
    alone = name == "jobs"
    return GroupSpec(
        name, min(count, 1) if alone else count, KINDS[name][0], ready_timeout=READY_TIMEOUT,
        stop_timeout=STOP_TIMEOUT, restart=restart, singleton=alone,
        max_uptime=150.0 if name == "web" else 0.0, max_memory=(50 << 20) if name == "api" else 0,
        depends_on=(("web", "ready"),) if name == "api" else (),
    )  # fmt: skip


def program(name: str, behaviour: str) -> Program:
    changes = dict({**GOOD, **BAD}[behaviour])
    if name == "plain":  # it serves from the start, for all that anybody can know
        changes["boot"] = 0.0
    return replace(KINDS[name][1], **changes)


class Machine(RuleBasedStateMachine):
    world: CheckedWorld
    how: str
    """How the service is to end."""
    after: int
    """How many things its master does for that before it dies."""

    @initialize(
        count=st.integers(min_value=1, max_value=5),
        policy=policies,
        behaviour=st.sampled_from([*GOOD, *BAD]),
        how=st.sampled_from(["shutdown", "signal", "exit"]),
        after=st.integers(min_value=0, max_value=20),
    )
    def start(self, count: int, policy: RestartPolicy, behaviour: str, how: str, after: int) -> None:
        self.how, self.after = how, after
        programs = {name + release: program(name, "quick") for name in KINDS for release in RELEASES}
        programs["web"] = program("web", behaviour)
        self.world = CheckedWorld(Spec("default", (group("web", count, policy),)), programs)

    def ask(self, request: Any) -> None:
        with suppress(Rejected, MasterAway):
            self.world.request(request)

    # What operators do.

    @rule(name=groups, behaviour=st.sampled_from([*GOOD, *BAD]))
    def deploy(self, name: str, behaviour: str) -> None:
        self.world.programs[name] = program(name, behaviour)

    @rule(which=which)
    def restart(self, which: int) -> None:
        processes = self.world.alive()
        places = [f"{process.spawn.label}" for process in processes] + [str(process.state.pid) for process in processes]
        names = sorted({process.spawn.meta["group"] for process in processes})
        self.ask(Restart(pick(["all", *names, *places, "nobody"], which)))

    @rule(change=st.sampled_from(["0", "1", "2", "4", "+1", "+2", "-1", "-2"]), name=groups)
    def scale(self, change: str, name: str) -> None:
        self.ask(Scale(change, name))

    @rule(which=which)
    def shut_down_some(self, which: int) -> None:
        labels = {process.spawn.label for process in self.world.alive()}
        self.ask(Shutdown(pick(sorted(labels | {"web", "api"}), which)))

    @rule(name=groups, count=counts, policy=policies)
    def add_a_group(self, name: str, count: int, policy: RestartPolicy) -> None:
        self.ask(StartGroup(group(name, count, policy)))

    @rule(
        name=groups,
        release=st.sampled_from(RELEASES),
        behaviour=st.sampled_from([*GOOD, *BAD]),
        one=st.booleans(),
        flaw=st.sampled_from(["", "", "", "it does not compile"]),
        test=st.sampled_from([None, None, "passes", "fails"]),
        monitor=st.sampled_from([0.0, 5.0, 12.0]),
    )
    def upgrade(
        self, name: str, release: str, behaviour: str, *, one: bool, flaw: str, test: str | None, monitor: float
    ) -> None:
        to = replace(KINDS[name][0], target=name + release)
        self.world.programs[to.target] = program(name, behaviour)
        self.world.flaws[to.target] = flaw
        self.world.failures["fails"] = "it fails"
        self.ask(Upgrade(f"{name}.1" if one else name, to, monitor=monitor, test=test))

    @rule(name=groups)
    def roll_back(self, name: str) -> None:
        self.ask(Rollback(name))

    @rule()
    def cancel(self) -> None:
        self.ask(Cancel())

    @rule()
    def reload(self) -> None:
        self.world.signal("HUP")

    @rule(name=groups)
    def recycle(self, name: str) -> None:
        self.world.report(Due(name, "it is 4 o'clock"))

    @rule()
    def replace_everybody(self) -> None:
        self.ask(Reload(self.world.spec, everybody=True))

    @rule(
        count=st.integers(min_value=0, max_value=4),
        singleton=st.booleans(),
        release=st.sampled_from(["", *RELEASES]),
        names=st.sampled_from([("web",), ("web", "api"), ("api",), ("web", "plain", "jobs"), ()]),
        everybody=st.booleans(),
    )
    def reload_another_spec(
        self, count: int, release: str, names: tuple[str, ...], *, singleton: bool, everybody: bool
    ) -> None:
        made = []
        for name in names:
            there = self.world.cluster.groups.get(name) if self.world.cluster is not None else None
            spec = group(name, count, there.spec.restart if there is not None else RestartPolicy())
            alone = spec.singleton or (singleton and name == "web")
            to = replace(spec.release, target=name + release)
            made.append(replace(spec, singleton=alone, count=min(count, 1) if alone else count, release=to))
        self.ask(Reload(Spec("default", tuple(made)), monitor=0.0, everybody=everybody))

    @rule(wrong=st.sampled_from(WRONG))
    def ask_for_what_is_refused(self, wrong: Any) -> None:
        with suppress(MasterAway), pytest.raises(Rejected):
            self.world.request(wrong)

    # What happens.

    @rule(seconds=st.sampled_from([0.01, 0.3, 2.0, 15.0, 70.0]))
    def pass_time(self, seconds: float) -> None:
        self.world.run(seconds)

    @rule(which=which, how=st.sampled_from([0, 1, 9, 11]))
    def a_worker_dies(self, which: int, how: int) -> None:
        alive = self.world.alive()
        if alive:
            victim = pick(alive, which).worker
            if how in (9, 11):
                self.world.kernel.kill(victim, how)
            else:
                self.world.kernel.crash(victim, how)

    @rule(times=st.integers(min_value=1, max_value=6))
    def forks_are_refused(self, times: int) -> None:
        self.world.kernel.refuse_forks = times

    @rule(after=st.integers(min_value=0, max_value=14), back_in=st.sampled_from([0.1, 3.0, 50.0]))
    def the_master_dies(self, after: int, back_in: float) -> None:
        self.world.kill_master(after, back_in)

    @rule(seconds=st.sampled_from([0.2, 5.0, 25.0, 60.0]))
    def the_master_hangs(self, seconds: float) -> None:
        self.world.hang_master(seconds)

    @rule(seconds=st.sampled_from([0.5, 8.0, 100.0]))
    def the_machine_is_suspended(self, seconds: float) -> None:
        self.world.suspend(seconds)

    @invariant()
    def promises(self) -> None:
        if hasattr(self, "world"):
            self.world.check()

    # The faults stop.

    def teardown(self) -> None:
        if not hasattr(self, "world") or self.world.failed:
            return
        come_to_rest(self.world)
        end(self.world, self.how, self.after)


def within(world: CheckedWorld, done: Callable[[], bool], what: str) -> None:
    if not world.run_until(done, SETTLE):
        world.broken(f"after {SETTLE:g} s: {what}\n{world!r}\n{world.cluster and world.cluster.operations}")


def at_rest(world: CheckedWorld) -> bool:
    """Whether there is what is wanted, and nothing else."""
    cluster = world.cluster
    if cluster is None or not world.answers or cluster.running_operations():
        return False
    wanted = {
        (name, number, slot.generation) for name, each in cluster.groups.items() for number, slot in each.slots.items()
    }
    serving = [(*place_of(process), process.spawn.meta["generation"]) for process in world.serving()]
    return (
        sorted(serving) == sorted(wanted)
        and len(world.kernel.processes) == len(serving)
        and len(cluster.workers) == len(serving)
    )


def core(world: CheckedWorld) -> Cluster:
    assert world.cluster is not None
    return world.cluster


def stop_faults(world: CheckedWorld) -> None:
    world.kernel.refuse_forks = 0
    world.stop_faults()
    world.flaws.clear()
    for name in KINDS:
        for release in RELEASES:
            world.programs[name + release] = program(name, "quick")
    within(world, lambda: world.answers, "the master does not answer")


def come_to_rest(world: CheckedWorld) -> None:
    stop_faults(world)
    within(world, lambda: not core(world).running_operations(), "an operation does not end")
    world.check()
    asked = world.request(Restart("all")).id
    within(world, lambda: not core(world).running_operations(), "a restart with good code does not end")
    operation = core(world).operation(asked)
    if operation.state != "done":
        world.broken(f"a restart with good code ends as {operation}: {operation.reason}")
    world.check()
    within(world, lambda: at_rest(world), "there is not what is wanted")
    world.check()


def end(world: CheckedWorld, how: str, after: int) -> None:
    """End the service; its master dies *after* so many things that it does for that."""
    world.kill_master(after + 1)
    ask_to_end(world, how)
    within(world, lambda: world.answers or world.ended is not None, "the master does not answer")
    if world.ended is None and not core(world).ending:
        ask_to_end(world, how)  # the wish was lost with the master that heard it
    within(world, lambda: world.ended is not None, "the service does not end")
    if world.ended != 0 or world.alive():
        world.broken(f"the service ended with {world.ended} and left {world.alive()}")


def ask_to_end(world: CheckedWorld, how: str) -> None:
    if how == "signal":
        world.signal("TERM")
    else:
        with suppress(Rejected, MasterAway):
            world.request(ExitNow() if how == "exit" else Shutdown("all"))


settings.register_profile(
    "ci", max_examples=200, stateful_step_count=30, derandomize=True, deadline=None,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
settings.register_profile(
    "long", settings.get_profile("ci"), max_examples=5000, stateful_step_count=60, derandomize=False
)  # fmt: skip

PROFILE = os.environ.get("CSERVICE_SIM", "ci")
"""``CSERVICE_SIM=long pytest tests/sim/test_machine.py`` looks for new stories, for an hour or so."""

pytestmark = pytest.mark.timeout(600 if PROFILE == "ci" else 0)

TestMachine = Machine.TestCase
TestMachine.settings = settings.get_profile(PROFILE)
