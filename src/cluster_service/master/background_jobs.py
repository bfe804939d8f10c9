"""Long-running jobs for the core: checks of a release's code, and tests. At most one job per operation at a time.

The result is reported to the core (``core.protocol.reports``). The jobs of a master that dies end with it, and its
successor is asked to run them again.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

from cluster_service.config.releases import identity_of
from cluster_service.core.protocol import reports
from cluster_service.errors import CommandError
from cluster_service.machine import installation, shortage

from . import launch_plan

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping, Sequence

    from cluster_service.core.model.spec import Release
    from cluster_service.core.protocol.actions import RunTest

AT_ONCE = 0.1
"""Seconds for which the output lines of a test are collected before they are reported."""

ANY_HOST = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}


class Jobs:
    """The running jobs. *tell* receives the reports."""

    def __init__(self, service: str, tell: Callable[[Any], None]) -> None:
        self._service = service
        self._tell = tell
        self._running: dict[str, asyncio.Task[None]] = {}

    def check(self, operation: str, release: Release, others: Sequence[str] = ()) -> None:
        """Check whether the code of *release* can run as the user of its workers.

        *others*: the directories of the group's other releases; the report has a warning if one holds our installation.
        """
        self._begin(operation, self._check(operation, release, others))

    def test(self, order: RunTest, release: Release) -> None:
        """Run the health check and the script of *order*."""
        self._begin(order.operation, self._test(order, release))

    def abandon(self, operation: str) -> None:
        """Cancel the job of *operation* without a report."""
        job = self._running.pop(operation, None)
        if job is not None:
            job.cancel()

    async def close(self) -> None:
        """Cancel every job and wait until its processes are gone."""
        jobs = list(self._running.values())
        self._running.clear()
        for job in jobs:
            job.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)

    def _begin(self, operation: str, work: Coroutine[Any, Any, None]) -> None:
        if operation in self._running:
            work.close()
            return
        task = asyncio.get_running_loop().create_task(work)
        self._running[operation] = task

    def _done(self, report: reports.Checked | reports.Tested) -> None:
        self._running.pop(report.operation, None)  # first: the report may start the next job of this operation
        self._tell(report)

    async def _check(self, operation: str, release: Release, others: Sequence[str]) -> None:
        from cluster_service.config.releases import check_release  # rarely needed

        try:
            environ = launch_plan.of_release(release, os.environ)
            notes = await asyncio.to_thread(
                check_release, release, identity=identity_of(release.within), environ=environ
            )
            warning = await asyncio.to_thread(installation.warn_of_leaving, others, release.cwd)
        except CommandError as error:
            self._done(reports.Checked(operation, error.message))
        except Exception as error:  # no thread, process or memory: the operation waits for a report
            self._done(reports.Checked(operation, f"the code could not be looked at: {shortage.explain(error)}"))
        else:
            self._done(reports.Checked(operation, notes=(*notes, *([f"warning: {warning}"] if warning else ()))))

    async def _test(self, order: RunTest, release: Release) -> None:
        from . import release_tests  # rarely needed

        lines = _Lines(order.operation, self._tell)
        error = ""
        try:
            if order.health_check is not None:
                address = next((each for each in order.addresses if not each.startswith("udp:")), "")
                seconds = order.timeout or release_tests.HTTP_TIMEOUT
                error = await release_tests.http_check(address, order.health_check, seconds)
            if order.script is not None and not error:
                error = await release_tests.run_script(
                    order.script,
                    release=release,
                    env=self._environment(order, release),
                    within=order.timeout,
                    on_line=lines.add,
                    identity=identity_of(release.within),
                )
        except CommandError as refusal:
            error = refusal.message
        except Exception as error_:
            error = f"the test could not be run: {shortage.explain(error_)}"
        lines.flush()
        self._done(reports.Tested(order.operation, error))

    def _environment(self, order: RunTest, release: Release) -> dict[str, str]:
        return {
            **launch_plan.of_release(release, os.environ, launch_plan.names(self._service, order.group, 0)),
            "CSERVICE_NAME": self._service,
            "CSERVICE_GROUP": order.group,
            "CSERVICE_GENERATION": str(order.generation),
            **where(order.addresses),
        }


def where(addresses: Sequence[str]) -> Mapping[str, str]:
    """Return ``CSERVICE_TEST_URL`` and ``CSERVICE_TEST_PORT`` for a test of a server at *addresses*."""
    for address in addresses:
        host, _, port = address.removesuffix("+v4").rpartition(":")
        if port.isdecimal() and not address.startswith(("unix:", "udp:")):
            return {"CSERVICE_TEST_URL": f"http://{ANY_HOST.get(host, host)}:{port}", "CSERVICE_TEST_PORT": port}
    return {"CSERVICE_TEST_URL": addresses[0]} if addresses else {}


class _Lines:
    """Output of a test, reported in batches: each report is a step of the core."""

    def __init__(self, operation: str, tell: Callable[[Any], None]) -> None:
        self._operation = operation
        self._tell = tell
        self._lines: list[str] = []
        self._timer: asyncio.TimerHandle | None = None

    def add(self, line: str) -> None:
        """Report *line* within ``AT_ONCE`` seconds."""
        self._lines.append(line)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(AT_ONCE, self.flush)

    def flush(self) -> None:
        """Report the collected lines now."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        lines, self._lines = tuple(self._lines), []
        if lines:
            self._tell(reports.Said(self._operation, lines))
