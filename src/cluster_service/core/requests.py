"""What an operator may want. A request edits what is wanted and returns at once; the steps that follow do the work.

``Cluster.request`` answers a request by raising ``Rejected`` (nothing was changed) or by returning its operation.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .spec import GroupSpec, Release, Spec


class Rejected(Exception):
    """The request cannot be carried out. ``code`` is one of not_found, busy, bad_request, stopping."""

    def __init__(self, code: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint


@dataclass(frozen=True)
class Restart:
    """Replace workers by new ones of the same release, ready-first.

    *selector*: ``all``, a group's name, ``group.slot``, a slot's number, a pid, or ``pid:N`` to be sure.
    *timeout*: seconds for each start and each stop; None: the group's own.
    """

    selector: str
    timeout: float | None = None


@dataclass(frozen=True)
class Scale:
    """Change a group's count. *change*: ``4``, ``+1``, ``-2``. *group* may be left out when there is only one."""

    change: str
    group: str | None = None
    timeout: float | None = None


@dataclass(frozen=True)
class Shutdown:
    """End workers gracefully and do not replace them; ``all`` ends the service."""

    selector: str
    timeout: float | None = None


@dataclass(frozen=True)
class StartGroup:
    """Add a group of workers, one worker at a time."""

    group: GroupSpec


@dataclass(frozen=True)
class Upgrade:
    """Move one group, or some of its slots, to another release: checked, watched, and undone when it is bad.

    *monitor*: seconds for which the canary, and then the whole, must be healthy. *timeout*: seconds for each start and
    stop; None: the group's own. *test*: a script, and *health_check*: a path, tried on a worker that no client reaches.
    *allow_port_change*: a port of the old release that the new one does not listen on is no fault.
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
    """Go back to the release that was promoted before the present one; *selector*: ``all`` or a group."""

    selector: str = "all"
    monitor: float = 0.0
    timeout: float | None = None


@dataclass(frozen=True)
class Cancel:
    """Undo what *operation* has done so far; None: the one that runs."""

    operation: str | None = None


@dataclass(frozen=True)
class Reload:
    """Take up *spec* in place of the one that was configured. *monitor*, *timeout*: as of an upgrade; None: each
    group's own. *notes*: what else changes, told as steps. *everybody*: replace every worker, after that also those
    that would not need it.
    """

    spec: Spec
    monitor: float | None = None
    timeout: float | None = None
    notes: tuple[str, ...] = ()
    everybody: bool = False


@dataclass(frozen=True)
class Test:
    """Run *script* against the release of *group*; None: the only one, or the first. *timeout*: seconds; None: any."""

    script: str
    timeout: float | None = None
    group: str | None = None


@dataclass(frozen=True)
class ExitNow:
    """Kill every worker and end the service at once."""


@dataclass(frozen=True)
class Tick:
    """Time has passed: the deadline that the core gave is here."""


Request = Restart | Scale | Shutdown | StartGroup | Upgrade | Rollback | Cancel | Reload | Test | ExitNow
