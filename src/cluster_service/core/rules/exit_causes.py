"""Why a worker exited, in one sentence, and which line of its output says so.

The last line is often not the relevant one: Node ends with its version, Rich with the border of a box, Java and Rust
with stack frames, a command-line library with its usage. The rules below are ordered by certainty; the outputs that
they are based on are in ``tests/core/output``.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from cluster_service.wire.signals import signal_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cluster_service.core.model.spec import Release
    from cluster_service.core.model.worker import Worker

EXCERPT_LINES = 10
"""Most lines that are kept of an output, including the error line."""
_LINES_BEFORE_ERROR = 3
"""Lines that are kept before the error line."""

_ERRORS = re.compile(
    r"""
      (?:Uncaught\ )?(?:[\w$]+[.:]+)*[\w$]*                              # Python, Node, a command line
          (?:Error|Exception|Rejection|Interrupt|ExceptionGroup)(?:\ \[\w+\])?(?::|\Z)
    | Exception\ in\ thread\ "[^"]*"\ [\w.$]+ | Caused\ by:\                # Java; the last cause is the root
    | panic:\ | fatal\ error:\                                              # Go
    | \S+:\d+:in\ [`'].*'?:\ .*\([A-Z][\w:]*\)\Z                            # Ruby
    | (?:PHP\ )?(?:Fatal|Parse)\ error:\                                    # PHP
    """,
    re.VERBOSE,
)
"""Lines with which language runtimes report a fatal error."""
_PYTHON_FRAME = re.compile(r'\s+File ".*", line \d+')
_RUST_PANIC = re.compile(r"(?:thread '.*' (?:\(\d+\) )?)?panicked at \S+:\d+:\d+:\Z")
_GROUP = re.compile(r"  [|+] ")
"""Prefix of the lines of an ExceptionGroup in Python; lines of its parts have a longer one."""
_BOX = re.compile(r"[│┃|]\s*(.*?)\s*[│┃|]\Z")
_FATAL = re.compile(r"\W*(?:\S+ ){0,4}\W*(?:FATAL|CRITICAL|EMERG|fatal|critical|emerg)\b")
"""A last line in which the program itself reports a fatal error."""
_NOISE = re.compile(
    r"""
      [\W_]*\Z                                                              # brackets, carets, borders of boxes
    | [╭╰┌└+]                                                               # a border with a title
    | \W*(?:INFO|DEBUG)\b | .*\[(?:INFO|DEBUG)\]
    | Node\.js\ v\d | Require\ stack:\Z | Emitted\ '.*'\ event
    | \s+at\ | \s+from\ | \.\.\.\ \d+\ more | \s+\d+:\ | \#\d+\ | \s+thrown\ in\  # frames of a stack
    | note:\ | stack\ backtrace: | Stack\ trace: | goroutine\ \d | exit\ status\ \d
    | (?:Usage|usage):\ | Try\ '.*\ --help' | For\ help
    | npm\ (?:error|ERR!)(?:\ \w+\Z|.*(?:complete\ log\ of\ this\ run|This\ is\ related\ to\ npm))
    """,
    re.VERBOSE,
)
"""Lines that never contain the cause."""


def error_line(lines: Sequence[str]) -> str:
    """Return the line of *lines* that says why the program exited, without borders; empty: none."""
    at = error_index(lines)
    return "" if at is None else _strip_borders(lines[at])


def error_index(lines: Sequence[str]) -> int | None:
    """Return the index of that line in *lines*; None: there is none."""
    plain = [at for at, line in enumerate(lines) if _strip_borders(line) and not _NOISE.match(line)]
    if plain and _FATAL.match(_strip_borders(lines[plain[-1]])):
        return plain[-1]
    certain = [at for at in range(len(lines)) if _is_certain(lines, at)]
    found = certain or plain
    return found[-1] if found else None


def excerpt(lines: Sequence[str], most: int = EXCERPT_LINES) -> list[str]:
    """Return at most *most* of *lines*: the last ones, or, if the error line comes earlier, those around it."""
    at = error_index(lines)
    start = max(0, len(lines) - most)
    if at is not None and at - _LINES_BEFORE_ERROR < start:
        start = max(0, at - _LINES_BEFORE_ERROR)
    return list(lines[start : start + most])


def _is_certain(lines: Sequence[str], at: int) -> bool:
    line = _GROUP.sub("", lines[at])
    if not line.strip() or line[0].isspace():
        return False
    return bool(_ERRORS.match(line)) or _ends_traceback(lines, at) or bool(at and _RUST_PANIC.match(lines[at - 1]))


def _ends_traceback(lines: Sequence[str], at: int) -> bool:
    """Return whether this is the first unindented line after the frames of a Python traceback."""
    for each in reversed(lines[:at]):
        line = _GROUP.sub("", each)
        if line and not line[0].isspace():
            return False
        if _PYTHON_FRAME.match(line):
            return True
    return False


def _strip_borders(line: str) -> str:
    """Return *line* without white space and the sides of a box."""
    line = line.strip()
    box = _BOX.match(line)
    return box[1] if box else _GROUP.sub("", f"  {line}").strip() if line.startswith("| ") else line

BACKGROUND_SECONDS = 60.0
"""Seconds after its start within which a program that daemonizes has done so, even on a busy machine."""

EARLY_EXIT_HINT = ', without an error (a program that exits at the end of its input needs stdin = "keep-open")'
"""Addition to the cause if a program exits without an error before it is ready."""

SIGKILL = 9
"""A process killed by it cannot write a last line."""


def describe_exit(worker: Worker, lines: list[str], now: float) -> str:
    """Return in one sentence why *worker* exited. *lines*: its last output."""
    when = (
        "before it was ready"
        if worker.ready_at is None
        else f"after serving for {format_duration(now - worker.ready_at)}"
    )
    if worker.verdict:
        how = worker.verdict
    elif worker.signal is not None:
        how = f"was killed by {signal_name(worker.signal)} {when}"
    elif worker.code is not None:
        how = f"exited with code {worker.code} {when}"
        how += EARLY_EXIT_HINT if worker.code == 0 and worker.ready_at is None and not worker.stop_reason else ""
    else:
        how = f"disappeared {when}"
    tells = not worker.stop_reason and worker.signal != SIGKILL
    why = worker.bind_error or (error_line(lines) if tells else "")
    return f"{how}: {why}" if why else how


def format_duration(duration: float) -> str:
    """Return *duration* (seconds) as ``0.3 s``, ``12 s``, ``3 min`` or ``2 h``."""
    for limit, unit, name in ((10, 1, "s"), (120, 1, "s"), (7200, 60, "min")):
        if duration < limit:
            return f"{duration:.1f} {name}" if limit == 10 else f"{duration / unit:.0f} {name}"
    return f"{duration / 3600:.0f} h"

FOREGROUND = {
    "nginx": "-g 'daemon off;'",
    "redis-server": "--daemonize no",
    "valkey-server": "--daemonize no",
    "httpd": "-DFOREGROUND",
    "apache2": "-DFOREGROUND",
    "gunicorn": "no --daemon",
    "uwsgi": "no --daemonize",
    "php-fpm": "--nodaemonize",
    "haproxy": "-db",
    "caddy": "caddy run, not caddy start",
    "memcached": "no -d",
}
"""Name of a program -> the option that keeps it in the foreground."""


def describe_background(pid: int, release: Release) -> str:
    """Return the cause for a worker that left process *pid* in the background, with what to do."""
    program = os.path.basename(release.target)
    named = next((name for name in FOREGROUND if program.startswith(name)), "")
    how = FOREGROUND[named] if named else "for example nginx: daemon off;"
    return f"daemonized as PID {pid} and was stopped; run it in the foreground ({how})"


def append_lines(text: str, lines: list[str]) -> str:
    """Return *text* with *lines* indented below it; a single line with which *text* already ends is omitted."""
    if len(lines) == 1 and text.endswith(lines[0].strip()):
        return text
    return "\n".join([text, *(f"    {line}" for line in lines)])
