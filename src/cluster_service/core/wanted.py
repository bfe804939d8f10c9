"""Requests: what is wanted. Each is a *plan*, which validates all of it, and an *apply*, which carries it out.

A plan may raise Rejected and changes nothing; it returns the apply, a function of the time that cannot be refused and
returns the operation which watches. So a refused request leaves no trace.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from . import actions, judge, rollouts, selectors, shutdown
from .exit_causes import seconds
from .group import Group
from .operations import Operation
from .requests import Rejected
from .stages import KINDS, Rollout

if TYPE_CHECKING:
    from .requests import Cancel, ExitNow, Restart, Rollback, Scale, Shutdown, StartGroup, Test, Upgrade
    from .spec import GroupSpec, Release
    from .step_context import StepContext

Apply = Callable[[float], Operation]
"""The second half of a request: carries it out at a time (monotonic seconds) and does not raise."""

Place = tuple[str, int]
"""A group's name and a slot's number."""


# -- plans ------------------------------------------------------------------------------------------------------------


def restart(cluster: StepContext, request: Restart) -> Apply:
    """Want a new generation in the slots that are meant."""
    selectors.when_no_more(cluster)
    slots = selectors.select(request.selector, cluster.groups, cluster.workers.values())
    selectors.while_rolling(cluster, {name for name, _ in slots})
    return lambda now: _restart(cluster, request, slots, now)


def upgrade(cluster: StepContext, request: Upgrade) -> Apply:
    """Want another release in the slots that are meant, by and by."""
    selectors.when_no_more(cluster)
    group = selectors.group_of(cluster, request.selector)
    slots = [number for _, number in selectors.select(request.selector, cluster.groups, cluster.workers.values())]
    tested = request.test or request.health_check
    if tested and group.spec.singleton:
        raise Rejected(
            "bad_request",
            f"{group.name!r} has never two workers at a time, so there can be none that is only tried",
            "leave out the test",
        )
    if tested and request.release.share == "none":
        raise Rejected(
            "bad_request",
            f"the workers of {group.name!r} open their ports themselves (share none): a test could not be kept apart",
            "leave out the test, or share the ports",
        )
    selectors.refuse_to_roll(cluster, group, slots)

    def apply(now: float) -> Operation:
        operation, rollout = roll(cluster, group, slots, request.release, "upgrade", request.selector, now)
        rollout.monitor, rollout.timeout = request.monitor, request.timeout
        rollout.test, rollout.health_check = request.test, request.health_check
        rollout.allow_port_change = request.allow_port_change
        return operation

    return apply


def rollback(cluster: StepContext, request: Rollback) -> Apply:
    """Want the release again that was promoted before this one."""
    selectors.when_no_more(cluster)
    if request.selector != "all" and request.selector not in cluster.groups:
        known = ", ".join(["all", *cluster.groups])
        raise Rejected("not_found", f"there is no group {request.selector!r}", f"name one of: {known}")
    names = set(cluster.groups) if request.selector == "all" else {request.selector}
    past = {name for name in names if cluster.groups[name].past}
    group = selectors.one_group(cluster, past or names, request.selector)
    selectors.while_rolling(cluster, {group.name})
    if not group.past:
        raise Rejected(
            "not_found", f"there is no earlier release of group {group.name!r}", "upgrade TARGET moves to any other"
        )
    selectors.refuse_to_roll(cluster, group, list(group.slots))

    def apply(now: float) -> Operation:
        to = group.past[-1]
        operation, rollout = roll(cluster, group, list(group.slots), to, "rollback", request.selector, now)
        rollout.monitor, rollout.timeout = request.monitor, request.timeout
        rollout.allow_port_change = group.moved == group.promoted
        return operation

    return apply


def cancel(cluster: StepContext, request: Cancel) -> Apply:
    """Want back what an operation has changed so far; that operation is the answer."""
    selectors.when_ending(cluster)
    operation = selectors.find_cancellable(cluster, request.operation)

    def apply(now: float) -> Operation:
        if operation.kind not in KINDS:
            judge.finish(cluster, operation, "cancelled", "cancelled by an operator", now)
            return operation
        for group in cluster.groups.values():
            if group.rollout is not None and group.rollout.operation == operation.id:
                rollouts.cancel(cluster, group, now)
        return operation

    return apply


def test(cluster: StepContext, request: Test) -> Apply:
    """Have a script run against the code base; nothing is wanted of the workers."""
    selectors.when_no_more(cluster)
    group = selectors.find_group(cluster, request.group) if request.group else next(iter(cluster.groups.values()))

    def apply(now: float) -> Operation:
        operation = judge.begin(cluster, "test", f"test {request.script}", [], now)
        serving = [worker for worker in cluster.of_group(group.name) if worker.serving and worker.slot in group.slots]
        addresses = tuple(dict.fromkeys(address for worker in serving for address in worker.addresses))
        cluster.todo.append(
            actions.RunTest(operation.id, group.name, group.promoted, addresses, request.script, None, request.timeout)
        )
        return operation

    return apply


def scale(cluster: StepContext, request: Scale) -> Apply:
    """Want another number of slots."""
    selectors.when_no_more(cluster)
    group = selectors.find_group(cluster, request.group)
    selectors.while_leaving(cluster, {group.name})
    count = selectors.parse_count(request.change, len(group.slots))
    if count > 1 and group.spec.singleton:
        raise Rejected("bad_request", f"{group.name!r} is a singleton: it never has two workers", "ask for 0 or 1")
    return lambda now: resize(cluster, group, count, request.change, request.timeout, now)


def shut_down(cluster: StepContext, request: Shutdown) -> Apply:
    """Want the slots that are meant no more."""
    selectors.when_ending(cluster)
    if request.selector == "all":
        return lambda now: shutdown_all(cluster, request.timeout, now)
    selectors.when_no_more(cluster)
    slots = selectors.select(request.selector, cluster.groups, cluster.workers.values())
    selectors.while_leaving(cluster, {name for name, _ in slots})

    def apply(now: float) -> Operation:
        for name, number in slots:
            cluster.groups[name].leave_reason = "shutdown"
            del cluster.groups[name].slots[number]
            _set_stop_timeout(cluster, name, [number], request.timeout)
        return judge.begin(cluster, "shutdown", f"shutdown {request.selector}", [[n, s] for n, s in slots], now)

    return apply


def start_group(cluster: StepContext, request: StartGroup) -> Apply:
    """Want a further group."""
    selectors.when_no_more(cluster)
    name = request.group.name
    if name in cluster.groups and (cluster.groups[name].slots or cluster.of_group(name)):
        raise Rejected("bad_request", f"there is a group {name!r} already", "give another name with --group")
    return lambda now: add_group(cluster, request.group, now)


def exit_now(cluster: StepContext, _request: ExitNow) -> Apply:
    """Want the end, at once; possible while the service is shutting down too."""

    def apply(now: float) -> Operation:
        cluster.ending, cluster.ended = "exit", True
        for operation in cluster.running():
            judge.finish(cluster, operation, "cancelled", "exit now ended the service", now)
        slots = [[name, number] for name, group in cluster.groups.items() for number in group.slots]
        exiting = judge.begin(cluster, "exit", "exit now", slots, now)
        exiting.replaced = len(slots)
        judge.finish(cluster, exiting, "done", None, now)
        cluster.todo.append(actions.End(0, now=True))
        return exiting

    return apply


# -- applies that reload and facts use too: the caller has validated ---------------------------------------------------


def _restart(cluster: StepContext, request: Restart, slots: list[Place], now: float) -> Operation:
    operation = judge.begin(cluster, "restart", f"restart {request.selector}", [[n, s] for n, s in slots], now)
    for name in sorted({name for name, _ in slots}):
        group = cluster.groups[name]
        newer: dict[Release, int] = {}
        for slot in [group.slots[number] for each, number in slots if each == name]:
            release = group.releases[slot.generation]
            newer[release] = newer.get(release) or group.next_generation(release)
            slot.renew(newer[release], "restart", request.timeout)
        if group.release in newer:
            operation.generations[name] = newer[group.release]
    return operation


def roll(
    cluster: StepContext, group: Group, slots: list[int], release: Release, kind: str, selector: str, now: float
) -> tuple[Operation, Rollout]:
    """Begin to move *slots* of *group*, of which there is one at least, to *release*."""
    command = f"{kind} {selector} {release.target}"
    operation = judge.begin(cluster, kind, command, [[group.name, number] for number in slots], now)
    judge.step(cluster, operation, f"check: {release.target} in {release.cwd}", now)
    before = [[number, group.slots[number].generation] for number in slots]
    new = group.next_generation(release)
    rollout = Rollout(operation.id, new, before, len(slots) == len(group.slots), monitor=0.0)
    group.rollout = rollout
    return operation, rollout


def resize(cluster: StepContext, group: Group, count: int, change: str, timeout: float | None, now: float) -> Operation:
    """Have *count* slots in *group*. *change*: as the operator wrote it."""
    before = set(group.slots)
    group.resize(count)
    changed = sorted(before ^ set(group.slots))
    for number in changed:
        if number in group.slots:
            group.slots[number].timeout = timeout
    _set_stop_timeout(cluster, group.name, [number for number in changed if number in before], timeout)
    slots = [[group.name, number] for number in changed]
    return judge.begin(cluster, "scale", f"scale {change} {group.name}", slots, now)


def add_group(cluster: StepContext, spec: GroupSpec, now: float) -> Operation:
    """Have a group as *spec* says, one worker after the other."""
    cluster.groups[spec.name] = Group.new(spec, at_a_time=1)
    slots = [[spec.name, number] for number in cluster.groups[spec.name].slots]
    return judge.begin(cluster, "start", f"start {spec.release.target}", slots, now)


def end_group(cluster: StepContext, group: Group, now: float) -> Operation:
    """End *group*: once those that depend on it, and end too, have ended."""
    slots = [[group.name, number] for number in group.slots]
    group.leave_reason, group.leaving = "shutdown", True
    return judge.begin(cluster, "shutdown", f"shutdown {group.name}", slots, now)


def shutdown_all(cluster: StepContext, timeout: float | None, now: float) -> Operation:
    """Want no worker any more, whatever is under way."""
    for operation in cluster.running():
        judge.finish(cluster, operation, "cancelled", "the service is shutting down", now)
    slots = [[name, number] for name, group in cluster.groups.items() for number in group.slots]
    for name, group in cluster.groups.items():
        rollouts.freeze(cluster, group)
        _set_stop_timeout(cluster, name, None, timeout)
        for slot in group.slots.values():
            slot.timeout = timeout if timeout is not None else slot.timeout
    operation = judge.begin(cluster, "shutdown", "shutdown all", slots, now)
    delay = cluster.spec.shutdown_delay
    if delay:
        text = f"not ready any more; serving goes on for {seconds(delay)}, for those who look"
        judge.step(cluster, operation, text, now)
    plan = shutdown.order_text(cluster)
    if plan:
        judge.step(cluster, operation, plan, now)
    if delay:
        cluster.ending, cluster.drain_at = "shutdown", now + delay
    else:
        end_service(cluster, "shutdown", 0)
    return operation




def _set_stop_timeout(cluster: StepContext, group: str, slots: list[int] | None, timeout: float | None) -> None:
    for worker in cluster.of_group(group):
        if timeout is not None and (slots is None or worker.slot in slots):
            worker.stop_timeout = timeout


def end_service(cluster: StepContext, reason: str, code: int) -> None:
    """Want no worker any more; the service ends with exit code *code* when none is left. See ``shutdown_order``."""
    cluster.ending, cluster.end_code, cluster.drain_at = reason, code, None
    for group in cluster.groups.values():
        group.leave_reason, group.leaving = "shutdown", True
    release_groups(cluster)


def release_groups(cluster: StepContext) -> None:
    """Drop the slots of the groups whose turn to end has come. Groups that depend on each other in a circle end
    together.
    """
    ending = {name: group for name, group in cluster.groups.items() if group.leaving}
    leaving = {name: group for name, group in ending.items() if shutdown.is_alive(cluster, group)}
    gone = [""]
    while leaving and gone:
        free = [group for group in leaving.values() if not shutdown.dependents(group.name, leaving.values())]
        for group in free or leaving.values():
            group.rollout = None
            group.slots.clear()
        gone = [name for name, group in leaving.items() if not shutdown.is_alive(cluster, group)]
        leaving = {name: group for name, group in leaving.items() if name not in gone}
    for group in cluster.groups.values():
        group.leaving = group.leaving and (bool(cluster.ending) or shutdown.is_alive(cluster, group))
