"""The table of settings: the one source for options, environment variables, file keys and keyword arguments.

``setting`` is a name in snake case; kebab-case and camelCase are the same name everywhere. ``CSERVICE_<NAME>`` is its
environment variable. ``GROUP`` settings say what a group's workers are and may be given to the ``start`` command too;
the rest belong to the service as a whole.
"""

from __future__ import annotations

import re

from . import of_doors, of_service, of_workers
from .setting import GROUP, SERVICE, Setting

__all__ = ["ALIASES", "BY_NAME", "GROUP", "INTERNAL", "SERVICE", "SETTINGS", "WORKER_IDENTITY", "Setting", "canonical"]

SETTINGS: tuple[Setting, ...] = (*of_workers.SETTINGS, *of_service.SETTINGS, *of_doors.SETTINGS)

BY_NAME: dict[str, Setting] = {setting.name: setting for setting in SETTINGS}
ALIASES: dict[str, str] = {alias: setting.name for setting in SETTINGS for alias in (setting.name, *setting.also)}
"""Every name in snake case -> the setting's own."""

INTERNAL: frozenset[str] = frozenset(
    f"CSERVICE_{name}"
    for name in (
        *("SLOT", "GENERATION", "REASON", "CHANNEL", "PORTS", "BOARD", "TITLE", "CHECK", "CHECK_PID"),
        *("GUARDIAN_FD", "BOOT_FD", "BOARD_FD", "ROLE", "URL", "CA_FILE", "CLIENT_CERT", "TEST_URL", "TEST_PORT"),
        "NO_SECCOMP",
        "NO_STEERING",
    )
)
"""Variables that start like a setting's and are none: what a worker or a test finds, and what our own processes tell
each other."""

WORKER_IDENTITY = ("CSERVICE_NAME", "CSERVICE_GROUP", "CSERVICE_SHARE")
"""Variables that a worker finds and that, there, say who it is and not what a service is to be."""


def canonical(name: str) -> str:
    """``workerCount``, ``worker-count`` and ``worker_count`` -> ``worker_count``."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).replace("-", "_").lower()
