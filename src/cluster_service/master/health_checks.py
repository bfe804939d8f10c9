"""Health checks: every serving worker is checked periodically, over HTTP on a socket of its own, or by a command.

The guardian creates that socket and reports its address. The worker runtime serves it for an app on uvicorn and reports
the same address through the sd_notify field ``X_CSERVICE_CHECK``. The master never connects to any other address: it
may be root, and a worker must not choose what it opens. A command runs in the environment of the worker's release.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

from cluster_service.config.releases import identity_of
from cluster_service.core.protocol.reports import Examined
from cluster_service.errors import CommandError
from cluster_service.machine import shortage
from cluster_service.wire import facts
from cluster_service.wire.worker_protocol import CHECK_ADDRESS

from . import launch_plan
from .event_log import printable

if TYPE_CHECKING:
    from collections.abc import Callable

    from cluster_service.core.engine.cluster import Cluster
    from cluster_service.core.model.spec import GroupSpec, Release
    from cluster_service.core.model.worker import Worker


MAX_ADDRESS = 200
"""Maximum characters of an address that are logged."""


class Checks:
    """One task for each worker to be checked. *tell* receives the reports."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        tell: Callable[[Examined], None],
        service: str,
        log: Callable[[str], None],
    ) -> None:
        self._loop = loop
        self._tell = tell
        self._service = service
        self._log = log
        self._given: dict[int, str] = {}
        """Maps a worker to the address that the guardian opened for it."""
        self._reported: dict[int, str] = {}
        """Maps a worker to the address that it reported."""
        self._refused: set[int] = set()
        self._complaints: dict[int, str] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}

    def learn(self, fact: Any) -> None:
        """Update the addresses for health checks from *fact*."""
        if isinstance(fact, facts.Notified) and CHECK_ADDRESS in fact.fields:
            self._reported[fact.worker] = fact.fields[CHECK_ADDRESS]
        elif isinstance(fact, facts.Monitoring):
            self._given[fact.worker] = fact.check
        elif isinstance(fact, (facts.Exited, facts.SpawnFailed)):
            self._given.pop(fact.worker, None)
            self._reported.pop(fact.worker, None)
            self._refused.discard(fact.worker)
            self._complaints.pop(fact.worker, None)
        elif isinstance(fact, facts.Snapshot):
            notified = {state["worker"]: state["notified"] for state in fact.workers if not state["exited"]}
            self._reported = {
                number: fields[CHECK_ADDRESS] for number, fields in notified.items() if CHECK_ADDRESS in fields
            }

    def address_of(self, worker: Worker) -> str:
        """Return the address for health checks of *worker*, or "". Log once if it reports an address not its own."""
        reported, given = self._reported.get(worker.number, ""), self._given.get(worker.number, "")
        if reported in ("", given):
            return reported
        if worker.number not in self._refused:
            self._refused.add(worker.number)
            shown = printable(reported, MAX_ADDRESS)
            self._log(f"{worker.name} (pid {worker.pid}) reported {shown} for health checks; ignored: not its own")
        return ""

    def follow(self, cluster: Cluster) -> None:
        """Check from now on those workers of *cluster* that serve and whose group has a check."""
        wanted = {
            worker.number: worker
            for group in cluster.groups.values()
            if group.spec.check is not None and not cluster.ending
            for worker in cluster.workers_of(group.name)
            if worker.serving and not worker.retire
        }
        for number in self._tasks.keys() - wanted.keys():
            self._tasks.pop(number).cancel()
        for number in wanted.keys() - self._tasks.keys():
            self._tasks[number] = self._loop.create_task(self._ask_again_and_again(cluster, wanted[number]))

    async def close(self) -> None:
        """Stop all checks."""
        tasks = list(self._tasks.values())
        self._tasks.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _ask_again_and_again(self, cluster: Cluster, worker: Worker) -> None:
        while True:
            group = cluster.groups[worker.group]
            release = group.releases.get(worker.generation, group.release)
            if group.spec.check is None:
                return
            await asyncio.sleep(group.spec.check.interval)
            try:
                error = await self._ask(worker, group.spec, release)
            except Exception as failure:  # noqa: BLE001 - no thread or memory: not the worker's fault
                self._complain(worker, f"{worker.name} could not be checked: {shortage.explain(failure)}")
                continue
            self._tell(Examined(worker.number, error))

    def _complain(self, worker: Worker, sentence: str) -> None:
        """Log *sentence*, unless it was the last one about *worker*."""
        if self._complaints.get(worker.number) != sentence:
            self._complaints[worker.number] = sentence
            self._log(sentence)

    async def _ask(self, worker: Worker, group: GroupSpec, release: Release) -> str:
        """Return what is wrong with *worker*, or an empty string if it is healthy."""
        from . import release_tests  # only with checks

        check, error = group.check, ""
        if check is None:
            return ""
        address = self.address_of(worker) if check.path is not None else ""
        if check.path is not None and address:
            error = await release_tests.http_check(address, check.path, check.timeout, statuses=check.status)
        if check.command and not error:
            names = launch_plan.names(self._service, worker.group, worker.slot)
            variables = {
                "CSERVICE_NAME": self._service,
                "CSERVICE_GROUP": worker.group,
                "CSERVICE_SLOT": str(worker.slot),
                "CSERVICE_GENERATION": str(worker.generation),
                "CSERVICE_CHECK_PID": str(worker.pid),
            }
            try:
                error = await release_tests.run_command(
                    check.command,
                    what=f"the check {check.command[0]}",
                    cwd=release.cwd,
                    env={**launch_plan.of_release(release, os.environ, names), **variables},
                    within=check.timeout,
                    on_line=lambda _line: None,
                    identity=identity_of(release.within),
                )
            except CommandError as refusal:
                error = refusal.message
            except OSError as failure:
                if shortage.is_one(failure):
                    raise
                error = f"{check.command[0]} could not be run: {failure.strerror or failure}"
        return error
