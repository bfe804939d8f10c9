"""Text forms of a configuration, of the plan of a reload, and of the list of services."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .render import clean, inline, table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .render import Json

EFFECTS = {
    "start": "is started", "stop": "is ended", "scale": "is scaled", "replace": "workers are replaced",
    "settings": "at once, nobody restarts", "service": "only when the service is started anew",
}  # fmt: skip
"""Effect of a configuration change -> its description."""


def _plan(data: Json, *, terminal: bool) -> str:
    rows = [(each["group"] or "service", each["text"], EFFECTS.get(each["effect"], "")) for each in data["changes"]]
    if not rows:
        return "nothing would change"
    restarting = sorted({str(each["group"]) for each in data["changes"] if each["effect"] == "replace"})
    last = f"restarting: {clean(', '.join(restarting))}" if restarting else "nobody would restart"
    return table(("GROUP", "CHANGE", "EFFECT"), rows, terminal=terminal) + f"\n{last}"


def _fine(data: Json, **_: bool) -> str:
    groups = [f"{name}: {group['workers']} × {group['target']}" for name, group in data["groups"].items()]
    warnings = [f"warning: {each}" for each in data["warnings"]]
    return "\n".join(clean(each) for each in [f"{data['file'] or 'the configuration'} is fine", *groups, *warnings])


def _shown(data: Json, *, terminal: bool) -> str:
    parts = [f"service {clean(data['service'])}" + (f", from {clean(data['file'])}" if data["file"] else "")]
    parts += [_settings("SERVICE", data["settings"], terminal=terminal)]
    parts += [_settings(clean(name), rows, terminal=terminal) for name, rows in data["groups"].items()]
    return "\n\n".join(parts)


def _settings(title: str, rows: Iterable[Json], *, terminal: bool) -> str:
    lines = [
        (
            row["name"],
            row["note"] if row["from"] == "default" and row.get("note") else _value(row["value"]),
            row["from"] if row["from"] == "default" else row["where"],
        )
        for row in rows
    ]
    return table((title, "VALUE", "FROM"), lines, terminal=terminal)


def _value(value: object) -> str:
    return f"{value:g}s" if isinstance(value, float) else inline(value)  # every float is a duration


def _ls(data: Json, *, terminal: bool) -> str:
    if not data["services"]:
        return "no services run here"
    rows = [
        (
            row["name"],
            row["pid"],
            row["since"],
            "-" if row.get("serving") is None else f"{row['serving']}/{row['wanted']}",
            " ".join(row.get("ports") or ()),
            " ".join(row.get("targets") or ()) or row.get("error"),
        )
        for row in data["services"]
    ]
    heads = ("NAME", "PID", "SINCE", "SERVING", "PORTS", "TARGET")
    return table(heads, [[clean(cell) for cell in row] for row in rows], terminal=terminal)


_BY_FIELD: dict[str, Callable[..., str]] = {"changes": _plan, "services": _ls, "settings": _shown, "warnings": _fine}


def show(data: Json, *, terminal: bool) -> str:
    """Return the text of *data*, in a form selected by its fields. Raises KeyError for an unknown form."""
    field = next(name for name in (*_BY_FIELD, "") if name in data or not name)
    return _BY_FIELD[field](data, terminal=terminal)
