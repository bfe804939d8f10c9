"""Settings for monitoring and recycling the workers of a group, and the checks of their combinations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cluster_service.control.errors import CommandError
from cluster_service.core.model.spec import Check

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from cluster_service.core.model.spec import Release

    from .merge import Given

LEAST_HANG_TIMEOUT = 1.0
"""Seconds; with less, a busy machine would be mistaken for a hanging worker."""

PLAIN = ("max_memory", "max_growth", "memory", "max_uptime", "recycle_at")


def fields(given: Mapping[str, Given], release: Release, value: Callable[[str], Any]) -> dict[str, Any]:
    """Return fields of the ``GroupSpec``. *value* returns the value of a setting. Raises CommandError bad_request."""
    return {
        **{name: value(name) for name in PLAIN},
        "hang_timeout": _hang_timeout(given, value("hang_timeout")),
        "max_requests": _max_requests(given, release, value("max_requests")),
        "check": _check(given, release, value),
    }


def _hang_timeout(given: Mapping[str, Given], seconds: float) -> float:
    if 0 < seconds < LEAST_HANG_TIMEOUT:
        raise CommandError(
            "bad_request",
            f"{given['hang_timeout'].origin}: a loop that stands still for {seconds:g} s need not hang",
            f"Write {LEAST_HANG_TIMEOUT:g}s or more, or 0 for no such limit.",
        )
    return seconds


def _max_requests(given: Mapping[str, Given], release: Release, count: int) -> int:
    if count and release.kind != "app":
        raise CommandError(
            "bad_request",
            f"{given['max_requests'].origin}: the requests of {release.target} are not counted, only those of an app",
            "Use max_uptime or max_memory, or serve it as package.module:app.",
        )
    return count


def _check(given: Mapping[str, Given], release: Release, value: Callable[[str], Any]) -> Check | None:
    path, command = value("check_path"), value("check_command")
    if path is None and not command:
        return None
    if path is not None and (release.kind != "app" or release.server != "uvicorn"):
        raise CommandError(
            "bad_request",
            f"{given['check_path'].origin}: only a worker of an app on uvicorn has an address of its own for that",
            "Use check_command: it finds CSERVICE_SLOT and CSERVICE_CHECK_PID in its environment.",
        )
    return Check(path, value("check_status"), command, value("check_interval"), value("check_timeout"))
