"""Results as text: aligned columns in a pipe, coloured tables on a terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from cluster_service.commands.registry import CLOSED
from cluster_service.wire.validation import UNSEEN

Json = Mapping[str, Any]

COLOURS = {
    "serving (not listening)": "yellow",
    "serving": "green", "ok": "green", "done": "green", "starting": "cyan", "running": "cyan", "draining": "yellow",
    "stopping": "yellow", "waiting": "yellow", "degraded": "yellow", "undone": "yellow", "cancelled": "yellow",
    "broken": "red", "down": "red", "failed": "red",
}  # fmt: skip
"""The colours of cells with these words."""


INDENT = "    "
"""Indentation of a program's own output, such as a traceback."""


def can_move() -> bool:
    """Return True if standard output is a terminal on which lines can be redrawn."""
    return sys.stdout.isatty() and os.environ.get("TERM") not in (None, "", "dumb")


def is_terminal() -> bool:
    """Return True if standard output is a terminal that should get colours (https://no-color.org)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def show(name: str, data: Json, *, terminal: bool) -> str:
    """Return *data* in the rendering *name*, without a trailing newline."""
    try:
        return RENDERINGS.get(name, _fields)(data, terminal=terminal)
    except (KeyError, TypeError, AttributeError, ValueError):  # a custom command that overrides a built-in one
        return _custom(data, terminal=terminal)


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], *, terminal: bool) -> str:
    """Return a table with columns of numbers aligned to the right."""
    lines = [[clean(cell) for cell in row] for row in rows]
    right = [bool(lines) and all(_is_number(row[column]) for row in lines) for column in range(len(heads))]
    if terminal:
        return _rich_table(heads, lines, right)
    widths = [max(len(row[column]) for row in [list(heads), *lines]) for column in range(len(heads))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(row, widths, right, strict=True)
        ).rstrip()
        for row in [list(heads), *lines]
    )


def _rich_table(heads: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[bool]) -> str:
    import io
    import shutil

    from rich.box import SIMPLE_HEAD  # rich is slow to import: only for a terminal
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for head, to_right in zip(heads, right, strict=True):
        drawn.add_column(head, justify="right" if to_right else "left", overflow="fold")
    for row in rows:
        drawn.add_row(*(Text(cell, style=COLOURS.get(cell, "")) for cell in row))
    console = Console(file=io.StringIO(), force_terminal=True, width=max(60, shutil.get_terminal_size().columns))
    with console.capture() as captured:
        console.print(drawn)
    return "\n".join(line.rstrip() for line in captured.get().strip("\n").splitlines())


def coloured(word: str, *, terminal: bool) -> str:
    """Return *word* in its colour."""
    codes = {"green": 32, "yellow": 33, "red": 31, "cyan": 36}
    colour = COLOURS.get(word)
    return f"\x1b[{codes[colour]}m{word}\x1b[0m" if terminal and colour else word


def clean(value: object) -> str:
    """Return *value* as one line with control characters escaped."""
    text = "-" if value is None or value == "" else str(value)
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def clean_lines(text: str, indent: str = "") -> str:
    """Return *text*, which may have several lines, with control characters escaped.

    All lines but the first are prefixed with *indent*, unless they all start with it already.
    """
    first, *rest = [line(each) for each in text.splitlines()] or [""]
    before = "" if all(each.startswith(indent) for each in rest if each) else indent
    return "\n".join([first, *(before + each if each else "" for each in rest)])


def line(text: object) -> str:
    """Return one line of a program's output, with only those characters escaped that could control the terminal."""
    whole = str(text)
    return whole if whole.isprintable() else "".join(_shown(char) for char in whole)


_STEERING = ((0x00, 0x08), (0x0A, 0x1F), (0x7F, 0x9F), (0x2028, 0x2029), (0xD800, 0xDFFF), *UNSEEN)
"""Ranges of control characters (except tab), line separators, invisible format controls, and surrogates, which cannot
be encoded.
"""


def _shown(char: str) -> str:
    steers = any(first <= ord(char) <= last for first, last in _STEERING)
    return char.encode("unicode_escape").decode() if steers else char


def _is_number(cell: str) -> bool:
    return cell == "-" or cell[:1].isdigit()


def span(seconds: float | None) -> str:
    """Return a duration as ``4.2s``, ``3m 12s``, ``2h 05m`` or ``9d 04h``."""
    if seconds is None:
        return "-"
    if seconds < 60:
        return f"{seconds:.1f}s"
    whole = int(seconds)
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02}s"
    if whole < 86400:
        return f"{whole // 3600}h {whole % 3600 // 60:02}m"
    return f"{whole // 86400}d {whole % 86400 // 3600:02}h"


def memory(count: float | None) -> str:
    """Return a size as ``31 MB``."""
    return (
        "-" if count is None else f"{count / (1 << 20):.0f} MB" if count < 10 << 30 else f"{count / (1 << 30):.1f} GB"
    )


def _workers(data: Json, *, terminal: bool) -> str:
    heads = ("GROUP", "SLOT", "PID", "STATE", "GEN", "UPTIME", "RESTARTS", "MEMORY", "CPU", "LISTENING")
    rows = [
        (
            row["group"], row["slot"], row["pid"], _state(row), row.get("generation"), span(row.get("uptime_s")),
            row.get("restarts"), memory(row.get("memory_bytes")), _percent(row.get("cpu_percent")),
            " ".join(row.get("listening") or ()),
        )
        for row in data["workers"]
    ]  # fmt: skip
    if not rows:
        return f"service {clean(data['service'])} has no workers"
    drawn = table(heads, [[clean(cell) for cell in row] for row in rows], terminal=terminal)
    return "\n".join([drawn, *_troubles(data["workers"])])


def _state(row: Json) -> str:
    return f"{row['state']} (not listening)" if row.get("not_listening") else str(row["state"])


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}%"


def _troubles(rows: Iterable[Json]) -> list[str]:
    """Return one line per cause, with all slots that it prevents from serving."""
    causes: dict[str, list[str]] = {}
    for row in rows:
        if row["state"] in ("draining", "stopping"):
            continue
        last = None if row["state"] == "serving" else row.get("last_exit")
        detail = (last or {}).get("detail") or row.get("detail")
        if detail:
            again = row.get("next_try_s")
            causes.setdefault(clean(detail), []).append(
                f"{row['group']}.{row['slot']}" + (f" (next try in {span(again)})" if again is not None else "")
            )
    return [f"{clean(', '.join(slots))}: {detail}" for detail, slots in causes.items()]


def _health(data: Json, *, terminal: bool) -> str:
    lines = [
        f"{coloured(clean(data['status']), terminal=terminal)}: {data.get('serving')} of {data.get('wanted')} serving"
    ]
    shown = set()
    for problem in data.get("problems") or ():
        detail = problem.get("detail")
        lines.append(
            f"{clean(problem['group'])}.{problem['slot']} {clean(problem['state'])}"
            + (f": {clean(detail)}" if detail else "")
        )
        output = tuple(problem.get("output") or ())
        if output and output not in shown:
            shown.add(output)
            lines += [f"    {clean(line)}" for line in output]
    more = {key: value for key, value in data.items() if key not in ("status", "serving", "wanted", "problems")}
    return "\n".join([*lines, *([_fields(more, terminal=terminal)] if more else [])])


def _fields(data: Json, *, terminal: bool) -> str:
    width = max((len(name) for name in data), default=0)
    lines = []
    for name, value in data.items():
        if isinstance(value, Mapping) and "steps" in value:
            told = f"{clean(value['id'])}: {_operation(value, terminal=False)}"
            lines.append(f"{name.ljust(width)}  {told}")
        elif isinstance(value, Mapping) and value and all(isinstance(item, Mapping) for item in value.values()):
            lines.append(name)
            lines += [f"  {clean(key)}  {inline(item)}" for key, item in value.items()]
        else:
            shown = span(value) if name.endswith("_s") and isinstance(value, (int, float)) else inline(value)
            lines.append(f"{name.ljust(width)}  {coloured(shown, terminal=terminal)}")
    return "\n".join(lines)


def inline(value: object) -> str:
    """Return *value* as one line."""
    if isinstance(value, Mapping):
        return "  ".join(f"{clean(key)}={inline(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return " ".join(inline(item) for item in value) or "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return clean(value)


def _operation(data: Json, *, terminal: bool) -> str:
    """Return the final line of an operation; its steps were printed before."""
    state = coloured(clean(data["state"]), terminal=terminal)
    stage = f", {clean(data['stage'])}" if data.get("stage") and data["state"] == "running" else ""
    of = f" ({data['replaced']} of {data['of']})" if data.get("of") else ""
    reason = f": {clean_lines(str(data['reason']), INDENT)}" if data.get("reason") else ""
    return f"{clean(data['command'])}: {state}{stage}{of}{reason}"


def _operations(data: Json, *, terminal: bool) -> str:
    if "operations" not in data:
        return _operation(data, terminal=terminal)
    if not data["operations"]:
        return "no operations yet"
    rows = [
        (
            row["id"],
            row["command"],
            row["state"],
            row.get("stage") if row["state"] == "running" else None,
            f"{row['replaced']}/{row['of']}" if row.get("of") else None,
            row.get("started_at"),
            str(row.get("reason") or "").partition("\n")[0],
        )
        for row in data["operations"]
    ]
    heads = ("ID", "COMMAND", "STATE", "STAGE", "DONE", "STARTED", "REASON")
    return table(heads, [[clean(cell) for cell in row] for row in rows], terminal=terminal)


def _configured(data: Json, *, terminal: bool) -> str:

    return show_config(data, terminal=terminal)


def _units(data: Json, **_: bool) -> str:
    files = [(f"{data['name']}.service", data["unit"]), (f"{data['name']}.socket", data["socket"])]
    return "\n".join(f"# /etc/systemd/system/{name}\n{text}" for name, text in files if text).rstrip("\n")


def _version(data: Json, **_: bool) -> str:
    return f"cluster-service {clean(data['version'])}" + (
        f" (service {clean(data['service'])})" if data.get("service") else ""
    )


def _help(data: Json, **_: bool) -> str:
    if "commands" in data:
        offered = [command for command in data["commands"] if command.get("access") not in CLOSED]
        width = min(44, max((len(command["usage"]) for command in offered), default=0))
        lines = [f"  {command['usage'].ljust(width)}  {command['doc'].splitlines()[0]}" for command in offered]
        more = ["", "help COMMAND tells more. Durations are 60 (seconds), 1500ms, 10s, 5m or 2h."]
        return "\n".join(["Commands:", *lines, *more])
    lines = [f"Usage: {data['usage']}", "", *str(data["doc"]).splitlines()]
    parameters = data["parameters"]
    if parameters:
        names = [parameter["label"] if parameter["positional"] else parameter["option"] for parameter in parameters]
        width = max(map(len, names))
        lines += ["", "Arguments:"]
        for name, parameter in zip(names, parameters, strict=True):
            notes = [
                f"{note}: {value}"
                for note, value in (
                    ("one of", ", ".join(parameter.get("choices", ()))),
                    ("default", parameter.get("default")),
                )
                if value
            ]
            lines.append(f"  {name.ljust(width)}  {parameter['doc']}" + (f" ({'; '.join(notes)})" if notes else ""))
    return "\n".join(lines)


def _custom(data: Json, *, terminal: bool) -> str:
    """Return the result of a custom command: text unchanged, uniform objects as a table, others field by field."""
    value = data["result"] if set(data) == {"result"} else data
    if value is None:
        return "done"
    if isinstance(value, str):
        return "\n".join(line(each) for each in value.split("\n"))
    if isinstance(value, Mapping):
        return _fields(value, terminal=terminal)
    if isinstance(value, (list, tuple)):
        heads = list(value[0]) if value and isinstance(value[0], Mapping) else []
        if heads and all(isinstance(row, Mapping) and list(row) == heads for row in value):
            rows = [[inline(row[head]) for head in heads] for row in value]
            return table([clean(head).upper() for head in heads], rows, terminal=terminal)
        return "\n".join(inline(each) for each in value) or "none"
    return inline(value)


def event(data: Json) -> str:
    """Return one line for an event: its time, its name and its fields."""
    known = ("id", "at", "service", "event", "type")
    fields = {name: value for name, value in data.items() if name not in known and value not in (None, "", [])}
    return f"{clean(data.get('at'))}  {clean(data.get('event'))}  {inline(fields)}".rstrip()


def _events(data: Json, **_: bool) -> str:
    return "\n".join(event(each) for each in data["events"]) or "nothing has happened yet"


def _logs(data: Json, **_: bool) -> str:
    return "\n".join(clean(text) if text else "" for text in data["lines"])


RENDERINGS: dict[str, Callable[..., str]] = {
    "workers": _workers,
    "health": _health,
    "fields": _fields,
    "operation": _operation,
    "operations": _operations,
    "events": _events,
    "logs": _logs,
    "reload": lambda data, *, terminal: (_configured if "changes" in data else _operation)(data, terminal=terminal),
    "config": _configured,
    "ls": _configured,
    "systemd": _units,
    "version": _version,
    "help": _help,
    "custom": _custom,
    "exiting": lambda _data, **_: "every worker was killed; the service has ended",
}


EFFECTS = {
    "start": "is started", "stop": "is ended", "scale": "is scaled", "replace": "workers are replaced",
    "settings": "applied immediately; no restart needed", "service": "applied after the service is restarted",
}  # fmt: skip
"""Effect of a configuration change -> its description."""


def _plan(data: Json, *, terminal: bool) -> str:
    rows = [(each["group"] or "service", each["text"], EFFECTS.get(each["effect"], "")) for each in data["changes"]]
    if not rows:
        return "nothing would change"
    restarting = sorted({str(each["group"]) for each in data["changes"] if each["effect"] == "replace"})
    last = f"restarting: {clean(', '.join(restarting))}" if restarting else "no group would restart"
    return table(("GROUP", "CHANGE", "EFFECT"), rows, terminal=terminal) + f"\n{last}"


def _fine(data: Json, **_: bool) -> str:
    groups = [f"{name}: {group['workers']} × {group['target']}" for name, group in data["groups"].items()]
    warnings = [f"warning: {each}" for each in data["warnings"]]
    return "\n".join(clean(each) for each in [f"{data['file'] or 'the configuration'} is fine", *groups, *warnings])


def _setting_line(data: Json, *, terminal: bool) -> str:
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


_BY_FIELD: dict[str, Callable[..., str]] = {
    "changes": _plan, "services": _ls, "settings": _setting_line, "warnings": _fine,
}  # fmt: skip


def show_config(data: Json, *, terminal: bool) -> str:
    """Return the text of *data*, in a form selected by its fields. Raises KeyError for an unknown form."""
    field = next(name for name in (*_BY_FIELD, "") if name in data or not name)
    return _BY_FIELD[field](data, terminal=terminal)
