"""What /proc knows of processes."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple


class Stat(NamedTuple):
    """The fields of /proc/PID/stat that the tests look at."""

    parent: int
    group: int
    state: str
    ticks: int
    """CPU time used, of the user and of the system, in clock ticks."""


def stat(pid: int) -> Stat | None:
    """Return what /proc says of *pid*; None when there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text[text.rindex(")") + 2 :].split()
    return Stat(int(fields[1]), int(fields[2]), fields[0], int(fields[11]) + int(fields[12]))


def table() -> dict[int, Stat]:
    """Every process, by pid."""
    found = {int(entry.name): stat(int(entry.name)) for entry in Path("/proc").iterdir() if entry.name.isdigit()}
    return {pid: entry for pid, entry in found.items() if entry is not None}


def descendants(root: int) -> list[int]:
    """The living processes below *root*: its children, theirs, and so on; zombies are not alive."""
    below = defaultdict(list)
    processes = table()
    for pid, entry in processes.items():
        below[entry.parent].append(pid)
    found, todo = [], [root]
    while todo:
        offspring = below[todo.pop()]
        todo += offspring
        found += [pid for pid in offspring if processes[pid].state not in "ZX"]
    return found


def in_group(group: int) -> list[int]:
    """The living processes of a process group."""
    return [pid for pid, entry in table().items() if entry.group == group and entry.state not in "ZX"]


def children() -> bool:
    """Whether this process has any child, living or not yet waited for. Costs one system call."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def describe(pid: int) -> str:
    """``4711 (python worker.py)``."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except (FileNotFoundError, ProcessLookupError):
        command = "?"
    return f"{pid} ({command[:200]})"


def memory(pid: int) -> int:
    """Resident bytes of *pid*; 0 when it has ended."""
    try:
        text = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return 0
    found = re.search(r"^VmRSS:\s+(\d+) kB$", text, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def children_of(parent: int) -> list[int]:
    """The living children of *parent*."""
    return [pid for pid, entry in table().items() if entry.parent == parent and entry.state not in "ZX"]


def log_writer_of(guardian: int) -> int | None:
    """The pid of the log writer that *guardian* has, by what the process list says of it."""
    marks = (b"log writer", b"--log-writer")
    return next((pid for pid in children_of(guardian) if any(mark in _command(pid) for mark in marks)), None)


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""
