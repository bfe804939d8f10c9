"""``cservice config``: evaluates the local configuration without creating or starting anything."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cluster_service.control.errors import CommandError

from .merge import collect
from .resolve import chosen, resolve
from .shown import shown

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .record import Origin, Settings


def check(origin: Origin, environ: Mapping[str, str]) -> dict[str, Any]:
    """Return the ``verdict`` on what ``start`` would read. Raises CommandError bad_request with every mistake."""
    settings = resolve(origin, environ, make=False)
    if settings.shown["file"] is None:
        raise CommandError(
            "bad_request",
            f"there is nothing to check: {origin.directory} has neither cluster-service.toml nor "
            "[tool.cluster-service] in a pyproject.toml",
            "Name a file: cservice config check FILE.",
        )
    return verdict(settings)


def look(origin: Origin, environ: Mapping[str, str]) -> dict[str, Any]:
    """Return the origin of each value; see ``shown``. Raises CommandError bad_request."""
    collected = collect(origin.options, origin.source, origin.directory, environ)
    return shown(collected, chosen(collected, origin.target))


def verdict(settings: Settings) -> dict[str, Any]:
    """Return the summary of a valid configuration."""
    groups = settings.spec.groups
    return {
        "service": settings.name,
        "file": settings.shown.get("file"),
        "groups": {group.name: {"workers": group.count, "target": group.release.target} for group in groups},
        "warnings": list(settings.warnings),
    }
