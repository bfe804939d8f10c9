"""Requests of users. A request edits the desired state and returns at once; the following steps do the work.

``Cluster.request`` returns the operation of the request, or raises ``Rejected``; then nothing has changed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cluster_service.core.model.spec import GroupSpec, Release, Spec


class Rejected(Exception):
    """A request that cannot be carried out. ``code``: not_found, busy, bad_request, stopping or internal."""

    def __init__(self, code: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint


@dataclass(frozen=True)
class Restart:
    """Replace workers with new ones of the same release, ready-first.

    *selector*: ``all``, a group's name, ``group.slot``, a slot's number, a pid, or ``pid:N``, which is unambiguous.
    *timeout*: seconds for each start and each stop; None: as configured for the group.
    """

    selector: str
    timeout: float | None = None


@dataclass(frozen=True)
class Scale:
    """Change the number of workers. *change*: ``4``, ``+1``, ``-2``. *group* is optional if there is only one."""

    change: str
    group: str | None = None
    timeout: float | None = None


@dataclass(frozen=True)
class Shutdown:
    """Stop workers without replacing them; ``all`` ends the service."""

    selector: str
    timeout: float | None = None


@dataclass(frozen=True)
class StartGroup:
    """Add a group; its workers start one at a time."""

    group: GroupSpec


@dataclass(frozen=True)
class Upgrade:
    """Move one group, or some of its slots, to another release, and undo this if the release is bad.

    *monitor*: seconds for which the canary, and then all new workers, must be healthy. *timeout*: seconds for each
    start and stop; None: as configured. *test*: a script, and *health_check*: a path, tried on a worker that no client
    reaches. *allow_port_change*: the new release need not listen on the ports of the old one.
    """

    selector: str
    release: Release
    monitor: float = 10.0
    timeout: float | None = None
    test: str | None = None
    health_check: str | None = field(default=None, repr=False)
    allow_port_change: bool = False


@dataclass(frozen=True)
class Rollback:
    """Return to the release that was promoted before the current one. *selector*: ``all`` or a group."""

    selector: str = "all"
    monitor: float = 0.0
    timeout: float | None = None


@dataclass(frozen=True)
class Cancel:
    """Undo what *operation* has changed so far; None: the only running one."""

    operation: str | None = None


@dataclass(frozen=True)
class Reload:
    """Replace the configured spec with *spec*.

    *monitor*, *timeout*: as for an upgrade; None: as configured for each group. *notes*: other changes, recorded as
    steps. *everybody*: replace every worker, also those that the changes do not affect.
    """

    spec: Spec
    monitor: float | None = None
    timeout: float | None = None
    notes: tuple[str, ...] = ()
    everybody: bool = False


@dataclass(frozen=True)
class Test:
    """Run *script* against the release of *group*; None: the first group. *timeout*: seconds; None: unlimited."""

    script: str
    timeout: float | None = None
    group: str | None = None


@dataclass(frozen=True)
class ExitNow:
    """Kill every worker and end the service at once."""


@dataclass(frozen=True)
class Tick:
    """The deadline that the core returned has passed, and all facts have been read."""


Request = Restart | Scale | Shutdown | StartGroup | Upgrade | Rollback | Cancel | Reload | Test | ExitNow
