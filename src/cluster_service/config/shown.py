"""The value and origin of each setting, for display. Contains no secrets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cluster_service.core.rules import redaction
from cluster_service.core.rules.redaction import HIDDEN

from .table import BY_NAME, GROUP, SERVICE, SETTINGS, Setting

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .merge import Collected, Given

_FROM = {"flags": "option", "keywords": "keyword", "environment": "environment", "file": "file"}


def shown(collected: Collected, wanted: Mapping[str | None, Mapping[str, Given]]) -> dict[str, Any]:
    """Return ``{"service", "file", "settings": [row], "groups": {name: [row]}}``.

    A row is ``{"name", "value", "from", "where"}``; *from*: option, keyword, environment, file or default. *wanted*:
    the settings of each group to start; None as the name of the only group.
    """
    whole = collected.whole
    only = whole["group"].value if "group" in whole else BY_NAME["group"].default
    return {
        "service": whole["name"].value if "name" in whole else BY_NAME["name"].default,
        "file": collected.path,
        "settings": [_row(setting, whole) for setting in SETTINGS if setting.scope == SERVICE],
        "groups": {
            name or only: [
                _row(setting, given) for setting in SETTINGS if setting.scope == GROUP and setting.name != "group"
            ]
            for name, given in wanted.items()
        },
    }


def _row(setting: Setting, given: Mapping[str, Given]) -> dict[str, Any]:
    found = given.get(setting.name)
    if found is None:
        row = {"name": setting.name, "value": _plain(setting, setting.default), "from": "default", "where": ""}
        return {**row, "note": setting.shown} if setting.shown else row
    return {
        "name": setting.name,
        "value": _plain(setting, found.value),
        "from": _FROM[found.source],
        "where": found.origin,
    }


def _plain(setting: Setting, value: Any) -> Any:
    if setting.kind == "key":
        return HIDDEN if value not in (None, "auto") else value
    if setting.kind == "env":
        return {name: HIDDEN for name, _ in value}
    if setting.kind == "depends":
        return [f"{group}:{condition}" for group, condition in value]
    if isinstance(value, tuple):
        return redaction.redact_arguments([str(item) for item in value])
    return redaction.redact_text(value) if isinstance(value, str) else value
