"""Carrying out what the core asks for: orders to the guardian, and work of our own."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

from cluster_service.core import actions
from cluster_service.wire import orders

from . import launch

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .loop import Master


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
        launch.spawn(settings.name, action, group.spec, release, share, os.environ, titles=settings.process_titles)
    )


def _stop(master: Master, action: actions.Stop) -> None:
    worker = master.cluster.workers.get(action.worker)
    group = master.cluster.groups.get(worker.group) if worker else None
    release = group.releases.get(worker.generation) if worker and group else None
    if release is None or release.kind != "command":
        message = {"type": "stop", "timeout": action.timeout, "reason": action.reason}
        master.say(orders.Tell(action.worker, message))
    master.say(orders.Signal(action.worker, signal.SIGTERM, "stop"))


def tell_serving(master: Master, pid: int) -> None:
    """Let the worker know what it is now: only we see when those are ready that do not say so themselves."""
    worker = next((each for each in master.cluster.workers.values() if each.pid == pid), None)
    release = master.cluster.groups[worker.group].releases.get(worker.generation) if worker else None
    if worker is not None and release is not None and release.kind != "command":
        master.say(orders.Tell(worker.number, {"type": "state", "state": "serving"}))


def _kill(master: Master, action: actions.Kill) -> None:
    master.say(orders.Signal(action.worker, signal.SIGKILL, "kill", whole_group=True))


def _sweep(master: Master, action: actions.Sweep) -> None:
    master.say(orders.Signal(action.worker, signal.SIGKILL, "sweep", whole_group=True))


def _forget(master: Master, action: actions.Forget) -> None:
    master.say(orders.Forget(action.worker))


def _close(master: Master, action: actions.CloseListener) -> None:
    master.say(orders.Close(action.address))


def _check(master: Master, action: actions.Check) -> None:
    group = master.cluster.groups[action.group]
    master.jobs.check(action.operation, group.releases[action.generation])


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
    actions.End: lambda master, action: master.end(action),
}
"""Each kind of action, but for what is to be told."""
