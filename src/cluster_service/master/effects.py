"""Effects of the core's actions: orders to the guardian, work of the master itself, and its last steps."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import traceback
from functools import partial
from typing import TYPE_CHECKING

from cluster_service.core.protocol import actions, event_records, reports
from cluster_service.machine import shortage
from cluster_service.wire import facts, orders

from . import launch_plan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any

    from cluster_service.core.model.cluster_state import Operation
    from cluster_service.core.protocol.actions import End

    from .interfaces import Master


def carry_out(master: Master, todo: Sequence[actions.Action]) -> None:
    """Send the checkpoint, then carry out *todo* in order. If sending the checkpoint raises, nothing was done."""
    published = [action for action in todo if isinstance(action, actions.Publish)]
    numbers = master.publisher.number(len(published))
    master.note()
    for action in todo:
        try:
            if isinstance(action, actions.Publish):
                _publish(master, next(numbers), action.event)
            else:
                CARRY_OUT[type(action)](master, action)
        except Exception as error:  # later actions must not be lost
            master.log(f"{action} could not be carried out: {story_of(error)}")
            _FAILED.get(type(action), _nothing)(master, action, shortage.explain(error))


def each(master: Master, calls: Iterable[Callable[[], object]]) -> None:
    """Make all *calls* even if some fail. On MemoryError, end the master: its state can no longer be trusted."""
    for call in calls:
        try:
            call()
        except MemoryError:
            master.fail("the master has no memory left")
        except Exception as error:  # later calls must not be lost
            master.log(f"the master failed after a turn: {story_of(error)}")


def story_of(error: BaseException) -> str:
    """Return the traceback of *error*."""
    return "".join(traceback.format_exception(error)).rstrip()


def _publish(master: Master, number: int, event: event_records.Event) -> None:
    calls: list[Callable[[], object]] = [partial(master.publisher.publish, number, event)]
    if isinstance(event, event_records.WorkerReady):
        calls.append(partial(tell_serving, master, event.pid))
    if isinstance(event, event_records.OperationEnd):
        calls.append(master.operation_ended)
    each(master, calls)


def _start(master: Master, action: actions.Start) -> None:
    group = master.cluster.groups[action.group]
    release = group.releases[action.generation]
    share = master.share_of(group.name, release)
    if share != "none":
        for address in release.binds:
            if address not in master.cluster.unused:
                master.say(orders.Listen(address, tenant=group.name))
    settings = master.settings
    master.say(
        launch_plan.spawn(settings.name, action, group.spec, release, share, os.environ, titles=settings.process_titles)
    )


def _stop(master: Master, action: actions.Stop) -> None:
    worker = master.cluster.workers.get(action.worker)
    group = master.cluster.groups.get(worker.group) if worker else None
    release = group.releases.get(worker.generation) if worker and group else None
    if release is None or release.kind != "command":
        message = {"type": "stop", "timeout": action.timeout, "reason": action.reason}
        master.say(orders.Tell(action.worker, message))
    number = signal.SIGTERM if release is None else launch_plan.stop_signal(release)
    drain = min(launch_plan.drain_of(group.spec, release), action.timeout / 2) if group and release else 0.0
    master.say(orders.Signal(action.worker, number, "stop", drain=drain))


def tell_serving(master: Master, pid: int) -> None:
    """Notify a worker that it serves: only the master knows when a worker that does not report readiness is ready."""
    worker = next((each for each in master.cluster.workers.values() if each.pid == pid), None)
    release = master.cluster.groups[worker.group].releases.get(worker.generation) if worker else None
    if worker is not None and release is not None and release.kind != "command":
        master.say(orders.Tell(worker.number, {"type": "state", "state": "serving"}))


def _kill(master: Master, action: actions.Kill) -> None:
    master.say(orders.Signal(action.worker, signal.SIGKILL, "kill", whole_group=True))


def _sweep(master: Master, action: actions.Sweep) -> None:
    order = orders.Signal(action.worker, signal.SIGKILL, "sweep", whole_group=True, after=action.after)
    master.say(order)


def _forget(master: Master, action: actions.Forget) -> None:
    master.say(orders.Forget(action.worker))


def _close(master: Master, action: actions.CloseListener) -> None:
    master.say(orders.Close(action.address))


def _check(master: Master, action: actions.Check) -> None:
    group = master.cluster.groups[action.group]
    release = group.releases[action.generation]
    others = [each.cwd for each in group.releases.values() if each.cwd != release.cwd]
    master.jobs.check(action.operation, release, others)


def _test(master: Master, action: actions.RunTest) -> None:
    group = master.cluster.groups[action.group]
    master.jobs.test(action, group.releases[action.generation])


def _abandon(master: Master, action: actions.Abandon) -> None:
    master.jobs.abandon(action.operation)


CARRY_OUT: dict[type, Callable[[Master, Any], None]] = {
    actions.Start: _start,
    actions.Stop: _stop,
    actions.Kill: _kill,
    actions.Sweep: _sweep,
    actions.Forget: _forget,
    actions.CloseListener: _close,
    actions.Check: _check,
    actions.RunTest: _test,
    actions.Abandon: _abandon,
    actions.Dump: lambda master, action: master.pulses.dump(action),
    actions.Warn: lambda master, action: master.log(action.what),
    actions.Fault: lambda master, action: master.log(f"error: {action.what} (please report this)"),
    actions.End: lambda master, action: master.end(action),
}
"""The function for each kind of action, except Publish."""


def _nothing(_master: Master, _action: Any, _why: str) -> None:
    """Do nothing: the log has the error, and nothing waits for the action."""


def _give_way(master: Master, action: Any, why: str) -> None:
    master.fail(f"the guardian was not given an order ({type(action).__name__}): {why}")


def _dumped(master: Master, action: actions.Dump, _why: str) -> None:
    worker = master.cluster.workers.get(action.worker)
    if worker is not None:
        master.report_soon(reports.Dumped(worker.group, worker.slot, worker.pid or 0, action.why))


_FAILED: dict[type, Callable[[Master, Any, str], None]] = {
    actions.Start: lambda master, action, why: master.report_soon(facts.SpawnFailed(action.worker, why)),
    actions.Check: lambda master, action, why: master.report_soon(reports.Checked(action.operation, why)),
    actions.RunTest: lambda master, action, why: master.report_soon(reports.Tested(action.operation, why)),
    actions.Dump: _dumped,
    actions.Stop: _give_way,
    actions.Kill: _give_way,
    actions.Sweep: _give_way,
    actions.Forget: _give_way,
    actions.CloseListener: _give_way,
    actions.End: _give_way,
}
"""The function to call for an action that could not be carried out, by its kind."""


FETCH_SECONDS = 1.0
"""Seconds, after the last worker has exited, for the client that requested the shutdown to fetch the result."""

DOOR_SECONDS, DOOR_SECONDS_NOW = 2.0, 0.5
"""Seconds for pending responses and handlers to complete: normally, and after ``exit now``."""


class Leaving:
    """The shutdown of *master*."""

    def __init__(self, master: Master) -> None:
        self._master = master
        self._owed = ""
        """Id of the operation whose result a client has yet to fetch."""
        self._fetched = asyncio.Event()

    def owe(self, operation: Operation) -> None:
        """Keep the endpoints open at the end, for ``FETCH_SECONDS`` at most, until *operation* was fetched."""
        self._owed = operation.id
        self._fetched.clear()

    def answered(self, operation: Operation) -> None:
        """Note that *operation* in its current state is being sent to a client."""
        if operation.id == self._owed and not operation.running:
            self._fetched.set()

    async def say_bye(self, action: End) -> None:
        """Send the last responses, then order the guardian to exit, which happens even if the former fails."""
        master = self._master
        if action.code:
            master.log(f"every slot is broken: the service ends with exit code {action.code}")
        seconds = DOOR_SECONDS_NOW if action.now else DOOR_SECONDS
        try:
            if self._owed and master.doors is not None and not action.now:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._fetched.wait(), FETCH_SECONDS)
            if master.doors is not None:
                await master.doors.close(seconds)
            await master.hooks.idle(seconds)
            await master.memory.settle()  # before another service can start in its place
            await asyncio.to_thread(master.auditor.close)
        except Exception as error:  # a service that was asked to end must end
            master.log(f"the master failed as the service ended: {story_of(error)}")
        master.say_bye(orders.Bye(action.code))
