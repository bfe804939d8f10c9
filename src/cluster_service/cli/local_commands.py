"""The commands that ``cservice`` runs without a service: ``completion SHELL`` and ``man``.

The manual page is generated from the registry of commands and the table of settings.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import click

from cluster_service._version import __version__
from cluster_service.commands.registry import COMMANDS, Command, Parameter
from cluster_service.config.settings_table import SERVICE, SETTINGS, Setting
from cluster_service.errors import CODES

from .options import LOCAL_COMMANDS, SHELLS, START_SUMMARY, from_environment, global_options
from .output import out

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

def find(name: str) -> click.Command | None:
    """Return the click command of that name, or None."""
    return MAKERS[name]() if name in MAKERS else None


def _completion() -> click.Command:
    def run(shell: str) -> int:
        from .shells import script

        out(script(shell).rstrip("\n"))
        return 0

    argument = click.Argument(["shell"], type=click.Choice(SHELLS))
    text = LOCAL_COMMANDS[0].doc
    return click.Command("completion", params=[argument], callback=run, help=text, context_settings=HELP)


def _man() -> click.Command:
    def run() -> int:

        text = page()
        viewer = shutil.which("man")
        if sys.stdout.isatty() and viewer is not None:
            return subprocess.run([viewer, "-l", "-"], input=text.encode(), check=False).returncode
        out(text.rstrip("\n"))
        return 0

    return click.Command("man", params=[], callback=run, help=LOCAL_COMMANDS[1].doc, context_settings=HELP)


HELP = {"help_option_names": ["-h", "--help"]}
MAKERS: dict[str, Callable[[], click.Command]] = {"completion": _completion, "man": _man}


def words(argv: Sequence[str]) -> int:
    """Answer ``completion --words SHELL LINE`` for a shell. Ignores malformed arguments."""
    from .shells import answer

    if len(argv) == 4:
        sys.stdout.write(answer(argv[2], argv[3], from_environment(), global_options()))
        sys.stdout.flush()
    return os.EX_OK


EXITS = {
    0: "done",
    1: "the command failed, or the operation failed or was undone; standard error has the reason",
    2: "bad usage",
    3: "no such service, or it is already running",
    4: "not authorised",
    130: "interrupted (Ctrl-C); an operation that had begun goes on",
}
EXAMPLES = (
    ("cservice start -w 4 app:app --bind :8000", "four workers that share a port"),
    ("cservice restart all", "replace them, one after the other, ready first"),
    ("cservice upgrade all ./v2/worker.py --monitor 30s", "move to other code, and back when it is bad"),
    ("cservice", "a console of the running service"),
    ("source <(cservice completion bash)", "completion in this shell"),
)


def escaped(text: str) -> str:
    """Return *text* escaped for roff, on one line."""
    text = " ".join(text.split()).replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq").replace("^", "\\(ha")
    text = text.replace("~", "\\(ti")
    text = "".join(char if char.isascii() else f"\\[u{ord(char):04X}]" for char in text)
    text = re.sub(r"``?(.+?)``?", r"\\fB\1\\fR", text)
    return "\\&" + text if text.startswith(".") else text


def paragraphs(text: str) -> Iterable[str]:
    """Return the paragraphs of a documentation string."""
    return (each for each in re.split(r"\n\s*\n", text.strip()) if each.strip())


def item(tag: str, text: str, more: str = "") -> list[str]:
    """Return the lines of a tagged paragraph."""
    return [".TP", f"\\fB{escaped(tag)}\\fR" + (f" \\fI{escaped(more)}\\fR" if more else ""), escaped(text)]


def page() -> str:
    """Return the manual page."""
    lines = [
        f'.TH CSERVICE 1 "" "cluster\\-service {escaped(__version__)}" "User Commands"',
        ".SH NAME",
        "cservice \\- run a program as a service of many workers, and command the services that run",
        ".SH SYNOPSIS",
        ".B cservice start", "[\\fIOPTIONS\\fR] [\\fITARGET\\fR [\\fIARGS\\fR...]]", ".br",
        ".B cservice", "[\\fIOPTIONS\\fR] \\fICOMMAND\\fR [\\fIARGUMENTS\\fR...]", ".br",
        ".B cservice",
        ".SH DESCRIPTION",
        escaped(
            "A single-process program becomes a fault-resilient service of several processes: its workers share their "
            "ports, are replaced ready-first, and are watched. Without a command there is a console of the running "
            "service. A running service may have commands of its own: `cservice help` lists them."
        ),
        ".PP",
        escaped("Durations are 60 (seconds), 1500ms, 10s, 5m or 2h; sizes 512m or 2g."),
        ".SH OPTIONS",
        "These say which service is meant. They may stand before or after the command.",
    ]  # fmt: skip
    for option in global_options():
        label = "" if getattr(option, "is_flag", False) else option.metavar or ""
        lines += item(option.opts[0], str(getattr(option, "help", "")), label)
    lines.append(".SH COMMANDS")
    for command in COMMANDS.all():
        lines += _command(command, START_SUMMARY if command.name == "start" else "")
    for command in LOCAL_COMMANDS:
        lines += _command(command)
    for title, scope in (("SETTINGS OF THE SERVICE", True), ("SETTINGS OF THE WORKERS", False)):
        lines += [f".SH {title}", "Options of \\fBstart\\fR; each may stand in the environment and in a file as well."]
        for setting in SETTINGS:
            if setting.flags and (setting.scope == SERVICE) is scope:
                lines += _setting(setting)
    lines.append(".SH EXIT STATUS")
    for code, meaning in EXITS.items():
        named = ", ".join(name for name, (_, status) in CODES.items() if status == code)
        lines += item(str(code), meaning + (f" ({named})" if named else ""))
    lines += [".SH FILES"]
    lines += item("cluster-service.toml, pyproject.toml", "Settings, in the directory of the caller.")
    lines += item("$XDG_RUNTIME_DIR/cluster-service", "The control sockets of the user's services.")
    lines += item("$XDG_STATE_HOME/cluster-service/history", "The history of the console.")
    lines += [".SH EXAMPLES"]
    for line, meaning in EXAMPLES:
        lines += item(line, meaning)
    return "\n".join(lines) + "\n"


def _command(command: Command, doc: str = "") -> list[str]:
    lines = [f".SS {escaped(command.usage)}"]
    for number, text in enumerate(paragraphs(doc or command.doc)):
        lines += [*([".PP"] if number else []), escaped(text)]
    if not doc:
        for parameter in command.parameters:
            lines += _parameter(parameter)
    return lines


def _parameter(parameter: Parameter) -> list[str]:
    flags = ", ".join(flag for flag in (parameter.short, parameter.option) if flag)
    tag = parameter.label if parameter.positional else flags
    label = "" if parameter.positional or parameter.kind == "flag" else parameter.label
    default = f" Without it: {parameter.default}." if parameter.default else ""
    doc = parameter.doc[:1].upper() + parameter.doc[1:].rstrip(".")
    return item(tag, f"{doc}.{default}", label)


def _setting(setting: Setting) -> list[str]:
    default = setting.shown or (str(setting.default) if setting.default not in (None, (), True, False, "") else "")
    label = "" if setting.kind == "flag" else setting.metavar or "|".join(setting.choices)
    text = setting.doc + (f" Default: {default}." if default else "")
    if "environment" in setting.sources:
        text += f" Environment: {setting.environment}."
    return item(", ".join(setting.flags), text, label)
