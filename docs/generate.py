"""Generate the reference parts of the documentation: python docs/generate.py [--check].

Pages are written by hand, except for blocks between ``<!-- generated: NAME -->`` and ``<!-- end -->``. A block is
generated from the table that the program itself uses, so it can be stale but not wrong; a test checks that it is not.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from cluster_service.cli import local_commands
from cluster_service.commands.registry import COMMANDS, Command, Parameter
from cluster_service.config.settings_table import SERVICE, SETTINGS, Setting
from cluster_service.core.model.upgrade_state import STAGES
from cluster_service.core.model.worker import LEAVING, PUBLIC_STATES, TRANSITIONS
from cluster_service.core.protocol import event_records
from cluster_service.errors import CODES
from cluster_service.server import openapi
from cluster_service.wire.framing import name_of
from cluster_service.worker import stop_sequence

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

DOCS = Path(__file__).parent
ROOT = DOCS.parent

BLOCK = re.compile(r"(<!-- generated: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def cell(text: str) -> str:
    """Return *text* escaped for a table cell."""
    return text.replace("|", "\\|").replace("\n", " ").replace("``", "`").strip()


def table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a Markdown table."""
    heads = list(heads)
    lines = [heads, ["--"] * len(heads), *([cell(entry) for entry in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def diagram(transitions: Mapping[str, Mapping[str, str]]) -> str:
    """Return a state diagram of a table of transitions."""
    lines = ["```mermaid", "stateDiagram-v2", "    [*] --> " + next(iter(transitions))]
    for state, moves in transitions.items():
        into: dict[str, list[str]] = {}
        for event, other in moves.items():
            into.setdefault(other, []).append(event)
        lines += [f"    {state} --> {other}: {', '.join(names)}" for other, names in into.items()]
        if not moves:
            lines.append(f"    {state} --> [*]")
    return "\n".join([*lines, "```"])


def worker_diagram() -> str:
    """Return the states of a worker as a diagram, from the table of transitions."""
    shown = ", ".join(f"`{state}` is shown as `{name}`" for state, name in PUBLIC_STATES.items())
    leaving = ", ".join(f"`{state}`" for state in TRANSITIONS if state in LEAVING)
    return f"{diagram(TRANSITIONS)}\n\nA worker that was asked to end is in {leaving}. To users {shown}."


def stop_diagram() -> str:
    """Return the states of a stop as a diagram, from the table that the worker runtime follows."""
    return diagram(stop_sequence.TRANSITIONS)


def upgrade_diagram() -> str:
    """Return the stages of an upgrade as a diagram, from their table."""
    return diagram(STAGES)


def upgrade_arguments() -> str:
    """Return the arguments of ``upgrade``, from the registry."""
    return table(("argument", "meaning"), (parameter_row(entry) for entry in COMMANDS.get("upgrade").parameters))


def command_reference() -> str:
    """Return every command with its arguments, from the registry."""
    return "\n\n".join(command_entry(command) for command in COMMANDS.all())


def command_entry(command: Command) -> str:
    """Return the entry of one command."""
    facts = [f"access: {command.access}"]
    facts += ["a long operation (`--no-wait`)"] if command.operation else []
    facts += ["REST: `POST /api/v1/commands/" + command.name + "`"]
    doc = str(command.describe()["doc"])
    parts = [f"## {command.name}", f"    cservice {command.usage}", doc, f"*{'; '.join(facts)}*"]
    if command.parameters:
        parts.append(table(("argument", "meaning"), (parameter_row(entry) for entry in command.parameters)))
    return "\n\n".join(parts)


def parameter_row(parameter: Parameter) -> tuple[str, str]:
    """Return the syntax and the meaning of one argument."""
    value = "" if parameter.kind == "flag" else f" {parameter.label}"
    written = [f"`{parameter.label}`"] if parameter.positional else []
    written += [f"`{name}{value}`" for name in (parameter.short, parameter.option) if name]
    default = f" Without it: {parameter.default}." if parameter.default else ""
    must = " Required." if parameter.required else ""
    doc = parameter.doc[0].upper() + parameter.doc[1:]
    return " or ".join(written), f"{doc.rstrip('.')}.{must}{default}"


def settings_reference() -> str:
    """Return every setting, from the configuration's table."""
    heads = ("setting", "option", "environment", "default", "meaning")
    parts = []
    for scope, title in ((SERVICE, "The service"), ("group", "The workers")):
        rows = [setting_row(setting) for setting in SETTINGS if setting.scope == scope]
        parts.append(f"### {title}\n\n{table(heads, rows)}")
    return "\n\n".join(parts)


def setting_row(setting: Setting) -> tuple[str, str, str, str, str]:
    """Return the row of one setting."""
    also = f" (also {', '.join(f'`{name}`' for name in setting.also)})" if setting.also else ""
    value = f" {setting.metavar}" if setting.metavar else ""
    options = ", ".join(f"`{flag}{value if flag.startswith('--') else ''}`" for flag in setting.flags)
    environment = f"`{setting.environment}`" if "environment" in setting.sources else ""
    default = setting.shown or (f"`{setting.default}`" if setting.default not in (None, (), "") else "")
    choices = f" One of {', '.join(f'`{choice}`' for choice in setting.choices)}." if setting.choices else ""
    return f"`{setting.name}`{also}", options, environment, default, setting.doc + choices


def events_reference() -> str:
    """Return every event with its fields, from the records."""
    entries = []
    for cls in event_records.EVENTS:
        fields = ", ".join(f"`{field.name}`" for field in dataclasses.fields(cls))
        doc = re.sub(r"``(.*?)``", r"`\1`", inspect.getdoc(cls) or "").replace("\n", " ")
        doc = re.sub(r"[*](\w+)[*]", r"`\1`", doc)
        entries.append(f"## {name_of(cls)}\n\n{doc}\n\nFields: {fields}")
    return "\n\n".join(entries)


def reasons() -> str:
    """Return the reasons for which workers start and end."""
    return ", ".join(f"`{reason}`" for reason in event_records.REASONS)


def error_codes() -> str:
    """Return every error code, with its HTTP status and exit code."""
    rows = ((f"`{code}`", str(status), str(exit_code)) for code, (status, exit_code) in CODES.items())
    return table(("code", "HTTP status", "exit code"), rows)


def rest_reference() -> str:
    """Return every path of the HTTP endpoints, from their OpenAPI document."""
    rows = []
    for path, operations in openapi.document(COMMANDS.all())["paths"].items():
        for method, operation in operations.items():
            fine = [status for status in operation["responses"] if status.startswith("2")]
            other = "" if operation["tags"] != ["probes"] else ", else 503"
            rows.append((f"`{method.upper()} {path}`", operation["summary"], ", ".join(fine) + other))
    return table(("path", "what", "answers"), rows)


BLOCKS: dict[str, Callable[[], str]] = {
    "worker-diagram": worker_diagram,
    "stop-diagram": stop_diagram,
    "upgrade-diagram": upgrade_diagram,
    "upgrade-arguments": upgrade_arguments,
    "commands": command_reference,
    "settings": settings_reference,
    "events": events_reference,
    "reasons": reasons,
    "error-codes": error_codes,
    "rest": rest_reference,
}
"""Maps the name of a block to the function that generates it."""

WHOLE: dict[Path, Callable[[], str]] = {DOCS / "cservice.1": local_commands.page}
"""Pages that are generated completely."""


def filled(page: str) -> str:
    """Return *page* with its blocks regenerated. Raises KeyError for an unknown block."""
    return BLOCK.sub(lambda match: f"{match[1]}{BLOCKS[match[2]]()}\n{match[3]}", page)


def whole(page: Path) -> str:
    """Return the up-to-date text of *page*."""
    return WHOLE[page]() if page in WHOLE else filled(page.read_text(encoding="utf-8"))


def pages() -> list[Path]:
    """Return the pages that may contain blocks."""
    return sorted([*DOCS.rglob("*.md"), *ROOT.glob("*.md")])


def stale() -> list[Path]:
    """Return the pages that are not up to date."""
    return [page for page in (*pages(), *WHOLE) if not page.exists() or whole(page) != page.read_text(encoding="utf-8")]


def main() -> int:
    """Write the stale pages; with ``--check``, print them and return 1."""
    found = stale()
    for page in found:
        print(page.relative_to(ROOT))
        if "--check" not in sys.argv:
            page.write_text(whole(page), encoding="utf-8")
    return int(bool(found) and "--check" in sys.argv)


if __name__ == "__main__":
    sys.exit(main())
