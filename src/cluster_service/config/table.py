"""The table of settings, from which options, environment variables, file keys and keyword arguments derive.

The name of a setting is in snake case; kebab-case and camelCase are accepted everywhere. ``CSERVICE_<NAME>`` is its
environment variable. ``GROUP`` settings describe the workers of a group and may be given to the ``start`` command too;
the others belong to the service as a whole.
"""

from __future__ import annotations

import re

from . import of_doors, of_service, of_workers
from .setting import GROUP, SERVICE, Setting

__all__ = ["ALIASES", "BY_NAME", "GROUP", "INTERNAL", "SERVICE", "SETTINGS", "WORKER_IDENTITY", "Setting", "canonical"]

SETTINGS: tuple[Setting, ...] = (*of_workers.SETTINGS, *of_service.SETTINGS, *of_doors.SETTINGS)

BY_NAME: dict[str, Setting] = {setting.name: setting for setting in SETTINGS}
ALIASES: dict[str, str] = {alias: setting.name for setting in SETTINGS for alias in (setting.name, *setting.also)}
"""Every name and alias in snake case -> the name of the setting."""

INTERNAL: frozenset[str] = frozenset(
    f"CSERVICE_{name}"
    for name in (
        *("SLOT", "GENERATION", "REASON", "CHANNEL", "PORTS", "BOARD", "TITLE", "CHECK", "CHECK_PID"),
        *("GUARDIAN_FD", "BOOT_FD", "BOARD_FD", "ROLE", "URL", "CA_FILE", "CLIENT_CERT", "TEST_URL", "TEST_PORT"),
        "NO_SECCOMP",
        "NO_STEERING",
    )
)
"""Variables with the prefix of settings that are none: those set for a worker or a test, and those between our own
processes.
"""

WORKER_IDENTITY = ("CSERVICE_NAME", "CSERVICE_GROUP", "CSERVICE_SHARE")
"""Variables that identify a worker; inside a worker they are not settings."""


def canonical(name: str) -> str:
    """Return ``worker_count`` for ``workerCount``, ``worker-count`` and ``worker_count``."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).replace("-", "_").lower()
