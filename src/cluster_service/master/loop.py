"""The control loop of the master: receive a fact or a request, let the core decide, carry out its actions.

The checkpoint is sent to the guardian before the orders that it accounts for, on the same stream. Therefore, wherever a
master dies, its successor knows at least as much as the guardian.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import signal
import sys
import time
import traceback
from collections import deque
from typing import TYPE_CHECKING, Any

from cluster_service.core.engine.cluster import Cluster, split_into_steps
from cluster_service.core.protocol.requests import Rejected, Tick
from cluster_service.core.readout.serializers import status_line
from cluster_service.core.rules import shutdown_order
from cluster_service.machine import installation
from cluster_service.server.audit import AuditFile, Auditor
from cluster_service.wire import facts, orders

from . import effects, launch_plan
from .background_jobs import Jobs
from .config_reload import Reloading
from .effects import Leaving, story_of
from .event_log import Publisher
from .guardian_client import Kernel, Sockets
from .health_checks import Checks
from .heartbeats import Pulses
from .recycle_schedule import Schedule
from .state_file import Memory
from .worker_messages import Bus

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator

    from cluster_service.config import Settings
    from cluster_service.core.model.cluster_state import Operation
    from cluster_service.core.model.spec import Release
    from cluster_service.core.protocol import actions
    from cluster_service.core.protocol.requests import Request

    from .endpoints import Doors
    from .hooks import Hooks

FAILED = 70
"""Exit code of a master that detected an internal error: EX_SOFTWARE of sysexits(3)."""

TAKE_OVER = 15.0
"""Seconds, in addition to the time to stop, after which the guardian completes a shutdown without the master."""


HEARING_SECONDS = 0.05
"""Maximum seconds spent passing facts to the core before the endpoints are served again."""


class Master:
    """One master process. ``run`` returns the exit code of that process, not of the service."""

    def __init__(self, settings: Settings, stream: socket.socket, hooks: Hooks) -> None:
        self.settings = settings
        self.hooks = hooks
        self.cluster: Cluster
        self.hello: facts.Snapshot
        self.publisher = Publisher(settings.spec.name, hooks, self.log)
        self.doors: Doors | None = None
        self._loop = asyncio.get_running_loop()
        self._kernel = Kernel(stream, self._loop, self._on_fact, self._on_lost, self._on_fault, self.log)
        self.sockets = Sockets(self._kernel, self.log)
        self._over: asyncio.Future[int] = self._loop.create_future()
        self._snapshot: asyncio.Future[facts.Snapshot] = self._loop.create_future()
        self._early: list[Any] | None = []
        """Facts received before the core was ready; None once it is."""
        self._heard: deque[Any] = deque()
        """Facts and reports not yet passed to the core."""
        self._hearing = False
        """True if a call of ``_hear`` is scheduled."""
        self._timer: asyncio.TimerHandle | None = None
        self._turned = asyncio.Event()
        self._ending: asyncio.Task[None] | None = None
        self._bye = False
        """True once the guardian was ordered to exit."""
        self._warned: set[str] = set()
        self._hangups = 0
        """Number of SIGHUPs received."""
        self._standing: orders.Status | None = None
        """Last status sent to the guardian."""
        self.jobs = Jobs(settings.spec.name, self._on_report)
        self.memory = Memory(settings.state, self.log)
        self.auditor = Auditor(AuditFile(settings.audit_file, self.log), self.log)
        self.pulses: Pulses = Pulses(self._loop, self._on_report, self._kernel.send, lambda: self.cluster, self.log)
        self._checks = Checks(self._loop, self._on_report, settings.spec.name, self.log)
        self._schedule = Schedule(self._loop, self._on_report, self._times_of_day)
        self._bus = Bus(self)
        self.reloading = Reloading(self)
        self.leaving = Leaving(self)
        self._after_turn: tuple[Callable[[], None], ...] = (
            self._set_timer, self._wake, self._watch, self._follow, self.tell_standing,
        )  # fmt: skip

    # -- life ---------------------------------------------------------------------------------------------------------

    async def run(self) -> int:
        """Take over from the previous master and run until replaced or until the service has ended."""
        self._loop.add_signal_handler(signal.SIGTERM, self._step_down)
        self._loop.set_exception_handler(self._on_unhandled)
        begun = self._loop.create_task(self._begin())
        await asyncio.wait((begun, self._over), return_when=asyncio.FIRST_COMPLETED)
        if begun.done():
            begun.result()
        begun.cancel()  # it may be waiting for a fact that will not arrive
        code = await self._over
        await self.memory.settle()
        self._bus.close()
        self.reloading.close()
        await self.jobs.close()
        await self._checks.close()
        if self.doors is not None:
            await self.doors.close(0.5)
        await asyncio.to_thread(self.auditor.close)
        self._kernel.close()
        return code

    async def _begin(self) -> None:
        """Receive the snapshot and take over. End a service that cannot start."""
        self._kernel.send(orders.Hello(pid=os.getpid()))
        self.hello = await self._snapshot
        try:
            await self._take_over()
        except ValueError as error:  # the settings cannot be applied on this machine
            if self.hello.notebook:
                raise  # an unreadable checkpoint must not end a running service: the next master may read it
            self.log(str(error))
            self.say_bye(orders.Bye(1))

    async def _take_over(self) -> None:
        """Restore the core from the checkpoint, or start the service."""
        notebook = json.loads(self.hello.notebook) if self.hello.notebook else None
        spec = self.settings.spec
        if notebook is None:
            for group in spec.groups:
                self.share_of(group.name, group.release)
            self.cluster = Cluster(spec)
            what = ", ".join(f"{group.count} × {group.release.target}" for group in spec.groups)
            self.log(f"service {spec.name!r} (pid {self.hello.guardian_pid}): {what}")
            for directory in dict.fromkeys(group.release.cwd for group in spec.groups):
                if warning := installation.warn_of_release(directory):
                    self.log(f"warning: {warning}")
            self.memory.recall(self.cluster)
            await self._open_ports()
        else:
            self._restore(notebook)
            self.memory.save(self.cluster)  # the previous master may have died before saving it
        self._heard.extend((self.hello, *(self._early or ())))
        self._early = None
        self._hear(math.inf)
        self._bus.open()
        self._schedule.look()
        if not self._over.done() and self._ending is None:
            from .endpoints import Doors  # import the server stack only after the workers have been started

            self.doors = Doors(self)
            await self.doors.open()
            self.reloading.resume()

    def _restore(self, notebook: dict[str, Any]) -> None:
        """Restore the checkpoint. In safe mode, start without it if it cannot be read."""
        self.cluster = Cluster(self.settings.spec)
        try:
            self.cluster = Cluster.restore(self.settings.spec, notebook["cluster"])
            self.publisher.last = notebook["events"]
            self.reloading.restore(notebook)
        except Exception:
            if not self.hello.safe:
                raise
            self.log(f"the notebook cannot be read and is put aside:\n{traceback.format_exc()}")

    async def _open_ports(self) -> None:
        """Open the ports that apps are served on. Raises ValueError if an address is in use."""
        for group in self.cluster.groups.values():
            if self.share_of(group.name, group.release) != "none":
                for address in group.release.binds:
                    await self.sockets.listen(orders.Listen(address, tenant=group.name))

    def _step_down(self) -> None:
        """Handle SIGTERM: exit and leave everything to the successor."""
        if not self._over.done():
            self._over.set_result(0)

    def _on_unhandled(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Handle an exception that no task awaits. Exit on MemoryError, since other code may have failed too."""
        loop.default_exception_handler(context)
        if isinstance(context.get("exception"), MemoryError) and not self._over.done():
            self._over.set_result(FAILED)

    def _on_fault(self) -> None:
        """Exit after a fact was lost or only partly handled: the successor receives a full snapshot."""
        if not self._over.done():
            self.log(f"the master failed as it heard from the guardian:\n{traceback.format_exc()}")
            self._over.set_result(FAILED)

    def _on_lost(self) -> None:
        """Exit: the guardian is exiting, or it is dead and the kernel is about to kill this process."""
        if not self._over.done():
            self._over.set_result(0 if self._bye else 1)

    # -- the step -----------------------------------------------------------------------------------------------------

    def handle(self, *batch: Any) -> None:
        """Pass facts (from the guardian, a report or ``Tick``) to the core as one step and carry out its actions."""
        if self._gone:
            return
        with self._core_trusted(batch[0] if len(batch) == 1 else batch):
            self._carry_out(self.cluster.handle_batch(batch, time.monotonic()))

    def use_settings(self, settings: Settings) -> None:
        """Replace the settings in effect."""
        self.settings = settings

    def request(self, request: Request) -> Operation:
        """Let the core carry out *request* and return its operation. Raises Rejected, in which case nothing changed."""
        if self._bye:
            raise Rejected("stopping", "the service has ended", "start it again")
        if self._gone:
            raise Rejected("stopping", "the master is being replaced", "give the command again in a moment")
        try:
            with self._core_trusted(request):
                operation, todo = self.cluster.request(request, time.monotonic())
                self._carry_out(todo)
        except Rejected as refusal:
            if refusal.__cause__ is not None:
                self.log(f"{request!r} was refused for a mistake in the service itself: {story_of(refusal.__cause__)}")
            raise
        return operation

    @property
    def _gone(self) -> bool:
        """True if this master no longer makes decisions."""
        return self._kernel.lost or self._over.done()

    @contextlib.contextmanager
    def _core_trusted(self, event: Any) -> Iterator[None]:
        """End this master if the block raises anything but Rejected: the state of the core is then undefined, and the
        successor continues from the checkpoint.
        """
        try:
            yield
        except Rejected:
            raise
        except Exception as error:
            self.fail(f"the master failed at {event!r}:\n{story_of(error)}")
            raise

    def fail(self, why: str) -> None:
        """Log *why* and end this master; the successor continues from the checkpoint and the guardian's snapshot."""
        self.log(why)
        if not self._over.done():
            self._over.set_result(FAILED)

    def _carry_out(self, todo: list[actions.Action]) -> None:
        """Carry out *todo*. If one action fails, carry out the others and set the timer nevertheless."""
        try:
            if todo:
                effects.carry_out(self, todo)
        finally:
            effects.each(self, self._after_turn)

    def report_soon(self, report: Any) -> None:
        """Pass *report* to the core after its current actions have been carried out."""
        self._loop.call_soon(self._on_report, report)

    def operation_ended(self) -> None:
        """Save what has to outlive the service."""
        self.memory.save(self.cluster)
        self._loop.call_soon(self._schedule.look)  # a reload may have changed the schedule

    def _watch(self) -> None:
        self.pulses.watch(None if self._over.done() else self.cluster.sample_interval())

    def _follow(self) -> None:
        self._checks.follow(self.cluster)

    def tell_standing(self) -> None:
        """Send the status of the service to the guardian if it changed."""
        phase, text = status_line(self.cluster)
        if phase == "serving" and self.reloading.busy:
            phase = "reloading"
        status = orders.Status(phase, text, self._hangups)
        if status != self._standing:
            self._standing = status
            self._kernel.send(status)

    def _times_of_day(self) -> dict[str, str]:
        groups = () if self._over.done() else self.cluster.groups.items()
        return {name: group.spec.recycle_at for name, group in groups if group.spec.recycle_at}

    def _wake(self) -> None:
        """Wake the tasks that wait in ``next_turn``."""
        self._turned.set()
        self._turned = asyncio.Event()

    def note(self) -> None:
        """Send the checkpoint to the guardian."""
        notebook = {"cluster": self.cluster.checkpoint(), "events": self.publisher.last, **self.reloading.notebook()}
        self._kernel.send(orders.Note(json.dumps(notebook, separators=(",", ":"))))

    def _set_timer(self) -> None:
        """Schedule the next ``Tick`` for the core's deadline."""
        if self._timer is not None:
            self._timer.cancel()
        at = self.cluster.deadline()
        self._timer = None if at is None else self._loop.call_at(at, self._on_time)

    def _on_report(self, report: Any) -> None:
        """Pass a report of this process to the core, after all facts received before it."""
        self._kernel.pump()
        if self._heard:
            self._heard.append(report)
            self._hear_soon()
        else:
            self.handle(report)

    def _on_time(self) -> None:
        self._kernel.pump()  # facts received earlier are handled before the tick
        if self._heard:
            self._hear_soon()  # which sets the timer again
        else:
            self.handle(Tick())

    async def next_turn(self, wait: float) -> None:
        """Return after the next step, or after *wait* seconds."""
        turned = self._turned
        try:
            await asyncio.wait_for(turned.wait(), wait)
        except TimeoutError:
            return

    # -- facts --------------------------------------------------------------------------------------------------------

    def _on_fact(self, fact: Any, descriptor: int | None) -> None:
        if self._heard and isinstance(fact, (facts.Ping, facts.Message)):
            self._heard.append(fact)  # facts received earlier are handled first
            return
        if isinstance(fact, facts.Ping):
            self._kernel.send(orders.Pong())
            return
        if isinstance(fact, facts.Snapshot):
            self.pulses.learn(fact)
            self._checks.learn(fact)
            if not self._snapshot.done():
                self._snapshot.set_result(fact)
            return
        if self._bus.takes(fact):
            return
        if isinstance(fact, (facts.Listening, facts.ListenFailed)) and fact.worker is None:
            self.sockets.settle(fact, descriptor)
        self.pulses.learn(fact, descriptor)
        self._checks.learn(fact)
        if isinstance(fact, (facts.Monitoring, facts.OutputInspected)):
            return  # the core receives a report derived from them
        if isinstance(fact, facts.Signalled) and fact.signal == "HUP":
            self._hangups += 1
        elif isinstance(fact, facts.Signalled):
            delay = self.settings.spec.shutdown_delay
            self._kernel.send(orders.Stopping(delay + self._time_to_stop() + TAKE_OVER))
        if self._early is None:
            self._heard.append(fact)
            self._hear_soon()
        else:
            self._early.append(fact)

    def _hear_soon(self) -> None:
        if not self._hearing:
            self._hearing = True
            self._loop.call_soon(self._hear)

    def _hear(self, seconds: float | None = None) -> None:
        """Pass received facts to the core, step by step. After *seconds*, serve the endpoints before continuing."""
        self._hearing = False
        end = time.monotonic() + (HEARING_SECONDS if seconds is None else seconds)
        for batch in split_into_steps(list(self._heard)):
            for _ in batch:
                self._heard.popleft()
            try:
                self._hear_step(batch)
            except Exception:
                self._on_fault()
                raise
            if self._heard and time.monotonic() >= end:
                self._hear_soon()
                return

    def _hear_step(self, batch: list[Any]) -> None:
        """Handle *batch*. SIGHUP reloads the configuration if it can be read again; otherwise the core handles it."""
        (fact, *_) = batch
        if isinstance(fact, facts.Signalled) and fact.signal == "HUP" and self.reloading.on_signal():
            self.tell_standing()
        elif isinstance(fact, facts.Ping):
            self._kernel.send(orders.Pong())
        elif not isinstance(fact, facts.Message) or not self._bus.takes(fact):
            self.handle(*batch)

    def _time_to_stop(self) -> float:
        """Return the maximum seconds until every worker has exited or has been killed."""
        if self._early is None:
            return shutdown_order.remaining_shutdown_time(self.cluster)
        return shutdown_order.configured_shutdown_time(self.settings.spec.groups)  # the core does not exist yet

    # -- the end ------------------------------------------------------------------------------------------------------

    def end(self, action: actions.End) -> None:
        """End the service after its last worker is gone."""
        self._ending = self._loop.create_task(self.leaving.say_bye(action))

    def say_bye(self, bye: orders.Bye) -> None:
        """Order the guardian to exit."""
        self._bye = True
        self._kernel.send(bye)

    def share_of(self, name: str, release: Release) -> str:
        """Return how the workers of *release*, of the group *name*, share their ports. Raises ValueError if the
        configured mode is not available on this machine.
        """
        share, warning = launch_plan.settle_share(release.share, release.kind, self.hello.share)
        if warning and name not in self._warned:
            self._warned.add(name)
            self.log(f"{name}: {warning}")
        return share

    # -- publishing ---------------------------------------------------------------------------------------------------

    def tell(self, name: str, fields: dict[str, Any], line: str | None) -> None:
        """Publish an event that does not come from the core; the checkpoint records its number first."""
        (number,) = self.publisher.number(1)
        self.note()
        self.publisher.tell(number, name, fields, line)
        self._wake()

    def say(self, order: Any) -> None:
        """Send the guardian an order that does not come from the core."""
        self._kernel.send(order)

    @property
    def behind(self) -> int:
        """Number of bytes that the guardian has not read yet."""
        return self._kernel.behind

    def log(self, line: str) -> None:
        """Write *line* to the log of the service. Thread-safe.

        The line goes through the guardian, which never blocks: writing to the pipe of a log writer that does not read
        would block the master.
        """
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            self._loop.call_soon_threadsafe(self.log, line)
            return
        if not self._kernel.lost:
            self._kernel.send(orders.Log(line))
            return
        with contextlib.suppress(OSError, ValueError):  # a failure to write the log cannot be logged
            print(line, file=sys.stderr, flush=True)
