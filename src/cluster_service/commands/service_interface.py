"""The interface of a running service, which the master implements, and the client of the command that is running.

Commands and endpoints use nothing else of the service.
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from cluster_service.config import Settings

Json = dict[str, Any]
"""A JSON object."""


class Service(Protocol):
    """A running service, as seen by its commands.

    Methods that change something start an operation and return it (``{"id", "command", "state", "reason", "steps",
    "replaced", "of"}``). They raise CommandError for an invalid request, without having changed anything. Durations are
    in seconds.

    Only the last steps of an operation are kept. ``steps_dropped`` counts those removed from the front, so the absolute
    index of ``steps[0]`` is ``steps_dropped``. While an upgrade runs, its operation also contains ``stage``,
    ``workers`` (``{"old", "new"}``, the number of workers of each release) and ``monitor_left_s``.
    """

    name: str

    def workers(self) -> list[Json]:
        """Return one object per worker, and one for each slot without a worker (waiting, broken); by group and slot."""

    def health(self) -> Json:
        """Return ``{"status", "serving", "wanted", "problems": [{"group", "slot", "state", "detail"}]}``."""

    def info(self) -> Json:
        """Return the general information: name, version, pids, uptime, share, ports, doors, groups, operation."""

    def alive(self) -> bool:
        """Return the liveness of the service (``/live``)."""

    def ready(self) -> bool:
        """Return the readiness (``/ready``): at least one worker serves and no shutdown is in progress."""

    def operations(self) -> list[Json]:
        """Return the operations remembered, newest first."""

    def operation(self, operation_id: str) -> Json:
        """Return one operation. Raises CommandError not_found."""

    async def follow(self, operation_id: str, seen: int, wait: float) -> Json:
        """Return the operation; wait at most *wait* seconds for its end or more than *seen* steps in total."""

    def restart(self, selector: str, timeout: float | None) -> Json:
        """Replace workers ready-first. *selector*: all, GROUP, GROUP.SLOT, SLOT, PID or pid:N."""

    def scale(self, change: str, group: str | None, timeout: float | None) -> Json:
        """Change the number of workers. *change*: ``4``, ``+1``, ``-1``."""

    def shutdown(self, selector: str, timeout: float | None) -> Json:
        """Stop workers gracefully, or with ``all`` the service."""

    async def upgrade(self, selector: str, target: str | None, options: Mapping[str, Any]) -> Json:
        """Move one group, or some of its slots, to other code.

        *target*: None: the current one, with other *options*: cwd, python, env, server, args, program, monitor, test
        (an absolute path), health_check, allow_port_change, timeout.
        """

    def rollback(self, selector: str, monitor: float | None, timeout: float | None) -> Json:
        """Return to the release promoted before. *selector*: all or a group."""

    def cancel(self, operation_id: str | None) -> Json:
        """Undo an operation (None: the running one) and return it, possibly still running."""

    def test(self, script: str, timeout: float | None) -> Json:
        """Run *script* (an absolute path) against the current code. *timeout*: None: no limit."""

    async def reload(self, plan: bool, monitor: float | None, timeout: float | None) -> Json:
        """Reload the configuration and apply it.

        *plan*: only return ``{"service", "file", "changes"}``, in which a change is ``{"group", "effect", "text"}``.
        *monitor*, *timeout*: None: the values of each group.
        """

    async def configuration(self, action: str) -> Json:
        """Show the configuration in effect with its origin (*action* show), or check if it can be reloaded (check)."""

    def started_with(self) -> tuple[Settings, list[str]]:
        """Return the settings of the service and the command line that starts it. Raises CommandError."""

    async def start(self, target: str, options: Mapping[str, Any]) -> Json:
        """Add a group. *options*: cwd, workers, group, timeout, args, and the settings of ``config.group_settings``."""

    def exit_now(self) -> Json:
        """Kill every worker and exit. Returns ``{"exiting": true}``, unless the connection breaks before."""

    def events(self, after: int | None) -> AsyncIterator[Json]:
        """Yield the events from after id *after* (None: only new ones), without end."""

    def recent_events(self, limit: int) -> list[Json]:
        """Return the latest events remembered, oldest first."""

    async def log_lines(self, count: int) -> Json:
        """Return ``{"file", "lines"}``: the last lines of the log file. Raises CommandError failed if there is none."""

    def audit(self, entry: Json, *, aloud: bool) -> None:
        """Write one line to the audit file: time, key id, endpoint, peer, command, outcome, duration.

        *aloud*: write it to the log as well.
        """


@dataclass(frozen=True)
class Caller:
    """The origin of a command.

    *door*: ``unix``, ``tcp``, ``worker`` or ``master``. *peer*: ``uid:0``, an address, ``web.1 (pid 71)``. *key*: the
    name of the access key (never the key), ``owner``, or None if no key was needed.
    """

    door: str
    peer: str
    key: str | None = None


INSIDE = Caller("master", "")
"""The program of the service itself."""

CALLER: ContextVar[Caller] = ContextVar("caller", default=INSIDE)
