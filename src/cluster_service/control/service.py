"""What the doors may ask of a running service. The master implements it; the doors know nothing else of the master."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from cluster_service.config import Settings

Json = dict[str, Any]
"""A JSON object."""


class Service(Protocol):
    """A running service, as its commands see it.

    The methods that change something start an operation and return it (``{"id", "command", "state", "reason", "steps",
    "replaced", "of"}``); they raise CommandError when the request is wrong, and then nothing was changed.
    Durations are seconds.

    Only the last steps of an operation are kept: ``steps_dropped`` is how many were cut from the front, so the number
    of ``steps[0]``, for ever, is ``steps_dropped``. While an upgrade runs its operation also holds ``stage``,
    ``workers`` (``{"old", "new"}``, how many there are of each release) and ``monitor_left_s``.
    """

    name: str

    def workers(self) -> list[Json]:
        """One object a worker, and one for each slot that has none (waiting, broken); by group and slot."""

    def health(self) -> Json:
        """``{"status", "serving", "wanted", "problems": [{"group", "slot", "state", "detail"}]}``."""

    def info(self) -> Json:
        """The service as a whole: name, version, pids, uptime, share, ports, doors, groups, operation."""

    def alive(self) -> bool:
        """Whether the service is to be left running (``/live``)."""

    def ready(self) -> bool:
        """Whether it should be sent traffic: at least one worker serves and no shutdown is under way (``/ready``)."""

    def operations(self) -> list[Json]:
        """The operations remembered, newest first."""

    def operation(self, operation_id: str) -> Json:
        """One operation. Raises CommandError not_found."""

    async def follow(self, operation_id: str, seen: int, wait: float) -> Json:
        """The operation, as soon as it has had more than *seen* steps (those that were cut are counted) or has ended,
        and after *wait* seconds at most.
        """

    def restart(self, selector: str, timeout: float | None) -> Json:
        """Replace workers ready-first. *selector*: all, GROUP, GROUP.SLOT, SLOT, PID or pid:N."""

    def scale(self, change: str, group: str | None, timeout: float | None) -> Json:
        """*change*: ``4``, ``+1``, ``-1``."""

    def shutdown(self, selector: str, timeout: float | None) -> Json:
        """End workers gracefully, or with ``all`` the service."""

    async def upgrade(self, selector: str, target: str | None, options: Mapping[str, Any]) -> Json:
        """Move one group, or some of its slots, to other code. *target* None: the present one, with other *options*:
        cwd, python, env, server, args, program, monitor, test (an absolute path), health_check, allow_port_change,
        timeout.
        """

    def rollback(self, selector: str, monitor: float | None, timeout: float | None) -> Json:
        """Go back to the release that was promoted before. *selector*: all or a group."""

    def cancel(self, operation_id: str | None) -> Json:
        """Undo an operation (None: the one that runs) and return it, still running perhaps."""

    def test(self, script: str, timeout: float | None) -> Json:
        """Run *script* (an absolute path) against the code base; None: without a limit of time."""

    async def reload(self, plan: bool, monitor: float | None, timeout: float | None) -> Json:  # noqa: ASYNC109, FBT001
        """Read the configuration again and take it up; *plan*: only return ``{"service", "file", "changes"}``, where a
        change is ``{"group", "effect", "text"}``. *monitor*, *timeout*: None: each group's own.
        """

    async def configuration(self, action: str) -> Json:
        """*action* show: what is in effect and where it came from; check: whether it could be reloaded."""

    def started_with(self) -> tuple[Settings, list[str]]:
        """What the service was started with, and the command line that starts it so. Raises CommandError."""

    async def start(self, target: str, options: Mapping[str, Any]) -> Json:
        """Add a group. *options*: cwd, workers, group, timeout, args, and the settings of ``config.group_settings``."""

    def exit_now(self) -> Json:
        """Kill every worker and end. Returns ``{"exiting": true}``; the connection may break at once."""

    def events(self, after: int | None) -> AsyncIterator[Json]:
        """The events from number *after* on (None: only new ones), for ever."""

    def recent_events(self, limit: int) -> list[Json]:
        """The latest events that are remembered, oldest first."""

    async def log_lines(self, count: int) -> Json:
        """``{"file", "lines"}``: the last of the log file. Raises CommandError failed when there is none."""

    def audit(self, entry: Json, *, aloud: bool) -> None:
        """Write one line to the audit file: time, key id, door, peer, command, outcome, duration. *aloud*: to the log
        as well.
        """
