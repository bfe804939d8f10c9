"""What an operator may want. A request edits what is wanted and returns at once; the turns that follow do the work.

``Cluster.receive`` answers a request by raising ``Rejected`` (nothing was changed) or by starting an operation whose
id is then ``Cluster.last_operation``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .spec import GroupSpec


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
class ExitNow:
    """Kill every worker and end the service at once."""


@dataclass(frozen=True)
class Tick:
    """Time has passed: the deadline that the core gave is here."""


Request = Restart | Scale | Shutdown | StartGroup | ExitNow
