"""The commands that clients can send to a master: the ``Service`` protocol of ``control``, on a master."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import stat
import sys
import time
from typing import TYPE_CHECKING, Any

from cluster_service._version import __version__
from cluster_service.commands.registry import COMMANDS
from cluster_service.commands.service_interface import CALLER
from cluster_service.core.protocol import requests
from cluster_service.core.readout import serializers
from cluster_service.core.rules import selectors
from cluster_service.errors import CommandError
from cluster_service.machine import files, shortage
from cluster_service.server import audit

from .process_stats import Gauges

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping

    from cluster_service.config import Settings
    from cluster_service.core.model.cluster_state import Operation

    from .interfaces import Master

Json = dict[str, Any]


class RunningService:
    """A running service as seen by its commands (``commands.service_interface.Service``)."""

    def __init__(self, master: Master) -> None:
        self.name = master.settings.spec.name
        self._master = master
        self._gauges = Gauges()

    # -- reading ------------------------------------------------------------------------------------------------------

    def workers(self) -> list[Json]:
        """See ``Service.workers``."""
        rows = serializers.worker_rows(self._master.cluster, time.monotonic())
        self._gauges.fill(rows)
        return rows

    def health(self) -> Json:
        """See ``Service.health``."""
        return serializers.health_summary(self._master.cluster)

    def info(self) -> Json:
        """See ``Service.info``."""
        master, cluster = self._master, self._master.cluster
        running = cluster.running_operations()
        shares = {
            name: master.share_of(name, group.release)
            for name, group in cluster.groups.items()
        }
        return {
            "name": self.name,
            "version": __version__,
            "pid": master.hello.guardian_pid,
            "master_pid": os.getpid(),
            "master_starts": master.hello.master_starts,
            "safe_mode": master.hello.safe,
            "uptime_s": round(time.monotonic() - master.hello.started_at, 3),
            "share": next(iter(shares.values()), "none"),
            "ports": list(cluster.unused),
            "doors": master.doors.addresses if master.doors else [],
            "probes": master.doors.probes if master.doors else [],
            "groups": {
                name: {**view, "share": shares[name]} for name, view in serializers.group_summaries(cluster).items()
            },
            "operation": self._view(running[-1]) if running else None,
        }

    def alive(self) -> bool:
        """See ``Service.alive``."""
        return not self._master.cluster.ended

    def ready(self) -> bool:
        """See ``Service.ready``."""
        cluster = self._master.cluster
        return not cluster.ending and serializers.health_summary(cluster)["serving"] > 0

    def operations(self) -> list[Json]:
        """See ``Service.operations``."""
        return [self._view(operation) for operation in reversed(self._master.cluster.operations)]

    def operation(self, operation_id: str) -> Json:
        """See ``Service.operation``."""
        return self._view(self._find(operation_id))

    async def follow(self, operation_id: str, seen: int, wait: float) -> Json:
        """See ``Service.follow``."""
        until = time.monotonic() + wait
        while True:
            operation = self._find(operation_id)
            left = until - time.monotonic()
            if not operation.running or operation.steps_dropped + len(operation.steps) > seen or left <= 0:
                return self._view(operation)
            await self._master.next_turn(left)

    async def events(self, after: int | None) -> AsyncIterator[Json]:
        """See ``Service.events``."""
        published = self._master.publisher.history
        last = after if after is not None else (published[-1].id if published else 0)
        if published and last > published[-1].id:
            last = 0  # the id belongs to an earlier start of the service
        while True:
            fresh = [event for event in published if event.id > last]
            for event in fresh:
                last = event.id
                yield event.to_json()
            if not fresh:  # otherwise more events may have arrived meanwhile
                await self._master.next_turn(60.0)

    # -- changing -----------------------------------------------------------------------------------------------------

    def restart(self, selector: str, timeout: float | None) -> Json:
        """See ``Service.restart``."""
        return self._request(requests.Restart(selector, timeout))

    def scale(self, change: str, group: str | None, timeout: float | None) -> Json:
        """See ``Service.scale``."""
        return self._request(requests.Scale(change, group, timeout))

    def shutdown(self, selector: str, timeout: float | None) -> Json:
        """See ``Service.shutdown``."""
        return self._request(requests.Shutdown(selector, timeout))

    async def start(self, target: str, options: Mapping[str, Any]) -> Json:
        """See ``Service.start``."""
        from cluster_service.config import group_settings  # rarely needed

        cluster = self._master.cluster
        taken = [name for name, group in cluster.groups.items() if group.slots or cluster.workers_of(name)]
        directory = str(options.get("cwd") or "/")
        with _without_threads(f"{target} could not be looked at"):
            group = await asyncio.to_thread(group_settings, target, options, directory=directory, taken=taken)
        try:
            self._master.share_of(group.name, group.release)
        except ValueError as error:
            raise CommandError("bad_request", str(error)) from None
        return self._request(requests.StartGroup(group))

    async def upgrade(self, selector: str, target: str | None, options: Mapping[str, Any]) -> Json:
        """See ``Service.upgrade``."""
        from cluster_service.config.releases import release_of  # rarely needed

        cluster = self._master.cluster
        try:
            group = selectors.find_selected_group(cluster, selector)
        except requests.Rejected as refusal:
            raise CommandError(refusal.code, refusal.message, refusal.hint) from None
        try:
            with _without_threads(f"{target or group.release.target} could not be looked at"):
                release = await asyncio.to_thread(
                    release_of,
                    target,
                    options,
                    directory=str(options.get("cwd") or group.release.cwd),
                    current=group.release,
                )
        except CommandError as error:  # the request is valid, but the release does not exist
            raise CommandError("failed", error.message, error.hint) from None
        monitor, health_check = options.get("monitor"), options.get("health_check")
        return self._request(
            requests.Upgrade(
                selector,
                release,
                monitor=group.spec.monitor if monitor is None else monitor,
                timeout=options.get("timeout"),
                test=options.get("test"),
                health_check=group.spec.health_check if health_check is None else health_check,
                allow_port_change=bool(options.get("allow_port_change")),
            )
        )

    def rollback(self, selector: str, monitor: float | None, timeout: float | None) -> Json:
        """See ``Service.rollback``."""
        return self._request(requests.Rollback(selector, monitor or 0.0, timeout))

    def cancel(self, operation_id: str | None) -> Json:
        """See ``Service.cancel``."""
        return self._request(requests.Cancel(operation_id))

    def test(self, script: str, timeout: float | None) -> Json:
        """See ``Service.test``."""
        return self._request(requests.Test(script, timeout))

    async def reload(self, plan: bool, monitor: float | None, timeout: float | None) -> Json:  # noqa: FBT001 - as in Service
        """See ``Service.reload``."""
        reloading = self._master.reloading
        if plan:
            return await reloading.plan()
        return self._view(await reloading.take_up(monitor, timeout))

    async def configuration(self, action: str) -> Json:
        """See ``Service.configuration``."""
        return await self._master.reloading.configuration(action)

    def started_with(self) -> tuple[Settings, list[str]]:
        """See ``Service.started_with``."""
        settings = self._master.settings
        if settings.origin is None:
            raise CommandError("failed", "it is not known how this service was started", "Start it anew.")
        if settings.origin.source == "keywords":  # started by a program, which the master runs too
            return settings, [sys.executable, *sys.orig_argv[1:]]
        from cluster_service.systemd import units  # rarely needed

        return settings, [*units.program(), "start", *units.arguments(settings.origin, settings)]

    def exit_now(self) -> Json:
        """See ``Service.exit_now``."""
        with contextlib.suppress(requests.Rejected):  # the service or this master has already ended
            self._master.request(requests.ExitNow())
        return {"exiting": True}

    def recent_events(self, limit: int) -> list[Json]:
        """See ``Service.recent_events``."""
        return [event.to_json() for event in self._master.publisher.history][-limit:] if limit > 0 else []

    async def log_lines(self, count: int) -> Json:
        """See ``Service.log_lines``."""
        file = self._master.settings.log_file
        if file is None:
            hint = "It goes to the standard output of whoever started it; --log-file FILE keeps it."
            raise CommandError("failed", "this service writes no log file", hint)
        try:
            return {"file": file, "lines": await asyncio.to_thread(tail, file, max(0, count))}
        except OSError as error:
            raise CommandError("failed", f"the log file {file} cannot be read: {error.strerror}") from None

    def audit(self, entry: Json, *, aloud: bool) -> None:
        """See ``Service.audit``. Also publish an event for a command that changes something or was meant to."""
        self._master.auditor.add(audit.line(entry), aloud=aloud)
        try:
            changes = COMMANDS.get(entry["command"]).changes
        except CommandError:
            return
        if changes:
            fields = {"name": entry["command"], "door": entry["door"], "outcome": entry["outcome"]}
            self._master.tell("command", fields, None)

    def _request(self, request: requests.Request) -> Json:
        try:
            operation = self._master.request(request)
        except requests.Rejected as refusal:
            raise CommandError(refusal.code, refusal.message, refusal.hint) from None
        if isinstance(request, requests.Shutdown) and self._master.cluster.ending and CALLER.get().door in DOORS:
            self._master.leaving.owe(operation)
        return self._view(operation)

    def _find(self, operation_id: str) -> Operation:
        for operation in self._master.cluster.operations:
            if operation.id == operation_id:
                return operation
        raise CommandError("not_found", f"there is no operation {operation_id!r}", "see: operations")

    def _view(self, operation: Operation) -> Json:
        now = time.monotonic()
        self._master.leaving.answered(operation)
        return serializers.operation_row(self._master.cluster, operation, now, time.time() - now)


DOORS = ("unix", "tcp")
"""Endpoints whose clients wait for the outcome of their commands."""

MOST_LOG = 1 << 20
"""Maximum bytes that are read from the end of the log file."""


def tail(path: str, count: int) -> list[str]:
    """Return the last *count* complete lines of the file, within its last ``MOST_LOG`` bytes.

    Raises OSError, also if the path is not a regular file.
    """
    with open(files.open_for_reading(path), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file")
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - MOST_LOG))
        lines = file.read().decode("utf-8", "replace").splitlines()
    if size > MOST_LOG:
        del lines[:1]
    return lines[-count:] if count else []


@contextlib.contextmanager
def _without_threads(what: str) -> Iterator[None]:
    """Raise CommandError ``failed`` with *what* and the reason if the block cannot start a thread."""
    try:
        yield
    except RuntimeError as error:
        raise CommandError("failed", f"{what}: {shortage.explain(error)}", "Try again.") from None
