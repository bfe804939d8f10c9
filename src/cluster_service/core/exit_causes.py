"""Which of a program's last lines says why it ended.

The last line is often not the one: Node ends with its version, Rich with the lower border of a box, a Java or Rust
program with the frames of a stack, a program with a command-line library with its usage. The rules below are ordered
by how certain they are; the outputs that they were made from are in ``tests/core/output``.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from cluster_service.wire.signals import signal_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .spec import Release
    from .worker import Worker

EXCERPT_LINES = 10
"""Lines that are kept of a longer output, with the one that tells among them."""
_BEFORE = 3
"""Of these, lines that come before the one that tells."""

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
"""Lines by which a runtime reports what ended the program."""
_PYTHON_FRAME = re.compile(r'\s+File ".*", line \d+')
_RUST_PANIC = re.compile(r"(?:thread '.*' (?:\(\d+\) )?)?panicked at \S+:\d+:\d+:\Z")
_GROUP = re.compile(r"  [|+] ")
"""What Python puts before the lines of an ExceptionGroup, but not those of its parts, which have more."""
_BOX = re.compile(r"[│┃|]\s*(.*?)\s*[│┃|]\Z")
_FATAL = re.compile(r"\W*(?:\S+ ){0,4}\W*(?:FATAL|CRITICAL|EMERG|fatal|critical|emerg)\b")
"""A last line by which the program itself says what ended it."""
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
"""Lines that never say why."""


def error_line(lines: Sequence[str]) -> str:
    """Return the line of *lines* that says why the program ended, without borders; empty if there is none."""
    at = error_index(lines)
    return "" if at is None else _bare(lines[at])


def error_index(lines: Sequence[str]) -> int | None:
    """Return the place of that line in *lines*."""
    plain = [at for at, line in enumerate(lines) if _bare(line) and not _NOISE.match(line)]
    if plain and _FATAL.match(_bare(lines[plain[-1]])):
        return plain[-1]
    certain = [at for at in range(len(lines)) if _is_certain(lines, at)]
    found = certain or plain
    return found[-1] if found else None


def excerpt(lines: Sequence[str], most: int = EXCERPT_LINES) -> list[str]:
    """Return at most *most* of *lines*: the last ones, unless the one that tells comes before them."""
    at = error_index(lines)
    start = max(0, len(lines) - most)
    if at is not None and at - _BEFORE < start:
        start = max(0, at - _BEFORE)
    return list(lines[start : start + most])


def _is_certain(lines: Sequence[str], at: int) -> bool:
    line = _GROUP.sub("", lines[at])
    if not line.strip() or line[0].isspace():
        return False
    return bool(_ERRORS.match(line)) or _ends_traceback(lines, at) or bool(at and _RUST_PANIC.match(lines[at - 1]))


def _ends_traceback(lines: Sequence[str], at: int) -> bool:
    """Return whether the first line that is not indented after the frames of a Python traceback is this one."""
    for each in reversed(lines[:at]):
        line = _GROUP.sub("", each)
        if line and not line[0].isspace():
            return False
        if _PYTHON_FRAME.match(line):
            return True
    return False


def _bare(line: str) -> str:
    """Return *line* without white space and the sides of a box."""
    line = line.strip()
    box = _BOX.match(line)
    return box[1] if box else _GROUP.sub("", f"  {line}").strip() if line.startswith("| ") else line

SOON = 60.0
"""Seconds from its start within which a worker that puts itself into the background has done so, on a busy machine."""

ENDED = ', as if its work were done (one that ends with its standard input needs stdin = "keep-open")'
"""What to say of a program that ends without an error while it is started."""

SIGKILL = 9
"""Whoever is sent it has no last word."""


def cause(worker: Worker, lines: list[str], now: float) -> str:
    """Return in one sentence why *worker* is gone. *lines*: the last that it wrote."""
    when = "before it was ready" if worker.ready_at is None else f"after serving for {seconds(now - worker.ready_at)}"
    if worker.verdict:
        how = worker.verdict
    elif worker.signal is not None:
        how = f"was killed by {signal_name(worker.signal)} {when}"
    elif worker.code is not None:
        how = f"exited with code {worker.code} {when}"
        how += ENDED if worker.code == 0 and worker.ready_at is None and not worker.stop_reason else ""
    else:
        how = f"disappeared {when}"
    tells = not worker.stop_reason and worker.signal != SIGKILL
    why = worker.bind_error or (error_line(lines) if tells else "")
    return f"{how}: {why}" if why else how


def seconds(duration: float) -> str:
    """``0.3 s``, ``12 s``, ``3 min``, ``2 h``: short enough for a sentence."""
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
"""A program's name -> what makes it stay in the foreground."""


def background_verdict(pid: int, release: Release) -> str:
    """Return what is said of a worker that has left process *pid* in the background."""
    program = os.path.basename(release.target)
    named = next((name for name in FOREGROUND if program.startswith(name)), "")
    how = FOREGROUND[named] if named else "for example nginx: daemon off;"
    return f"put itself into the background as PID {pid} and was ended there; run it in the foreground ({how})"


def with_lines(text: str, lines: list[str]) -> str:
    """Return *text* and, indented below it, *lines*; a single one that *text* ends with is not said again."""
    if len(lines) == 1 and text.endswith(lines[0].strip()):
        return text
    return "\n".join([text, *(f"    {line}" for line in lines)])
