"""What only one module may do, so that a rule about it holds everywhere: rules that a test of behaviour cannot keep."""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING

import pytest

from .test_layers import FILES, SOURCE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CHANGES = {"link", "mkfifo", "mknod", "remove", "rename", "renames", "replace", "symlink", "truncate", "unlink"}
"""Functions of ``os`` that change a directory or a file by its name."""
COPIES = {"copy", "copy2", "copyfile", "copytree", "move", "rmtree"}
FLAGS = {"O_WRONLY", "O_RDWR", "O_CREAT", "O_APPEND", "O_TRUNC"}

ALLOWED = {
    "machine/files.py": "it is the one place",
    "machine/process_title.py": "its own memory, in /proc/self",
    "guardian/process_limits.py": "its own oom_score_adj, in /proc/self",
    "guardian/log_output.py": "an output that is open already, opened again by its descriptor",
    "guardian/forked_child.py": "/dev/null",
    "guardian/__main__.py": "/dev/null",
    "worker/job.py": "/dev/null",
    "launcher.py": "/dev/null",
    "cli/command_line.py": "/dev/null",
    "guardian/cleaner.py": "lock and sockets of a dead guardian, in its run directory",
    "config/user_programs.py": "descriptors that it was given",
    "rundir/locks.py": "the lock, in a directory that was checked to be ours, mode 0700",
    "guardian/unix_sockets.py": "Unix sockets, in a directory that it holds open",
    "guardian/socket_factory.py": "a Unix socket, with the rights of the worker that asked for it",
    "worker/app_sockets.py": "a Unix socket, with the rights of the worker itself",
}
"""Modules that open for writing, rename or remove by themselves, and what."""


def writes(path: Path) -> Iterator[str]:
    """Calls in the module at *path* that can write to, move or remove a file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        called, text = node.func, ast.unparse(node)
        named = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
        owner = ast.unparse(called.value) if isinstance(called, ast.Attribute) else ""
        if (
            (owner == "os" and (named in CHANGES or (named == "open" and any(flag in text for flag in FLAGS))))
            or (owner == "shutil" and named in COPIES)
            or (named == "open" and not owner and _opens_for_writing(node))
            or named in {"write_text", "write_bytes", "NamedTemporaryFile", "mkstemp"}
        ):
            yield text


def _opens_for_writing(node: ast.Call) -> bool:
    """Whether the built-in ``open`` is to open a name for writing; descriptors are opened already."""
    if isinstance(node.args[0], ast.Call) and ast.unparse(node.args[0].func).startswith("files."):
        return False
    modes = node.args[1:2] + [each.value for each in node.keywords if each.arg == "mode"]
    return any(not isinstance(mode, ast.Constant) or set("wax+") & set(str(mode.value)) for mode in modes)


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(SOURCE)) for path in FILES])
def test_files_are_written_by_one_module(path: Path) -> None:
    name = str(path.relative_to(SOURCE))
    found = list(writes(path))
    assert bool(found) == (name in ALLOWED), f"use machine.files, or say why not in ALLOWED: {found}"


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(SOURCE)) for path in FILES])
def test_descriptors_are_sent_by_one_module(path: Path) -> None:
    """``socket.send_fds`` waits whatever its flags say; and the worker's runtime, which may wait, only receives."""
    name = str(path.relative_to(SOURCE))
    if name != "machine/descriptor_passing.py":
        source = path.read_text(encoding="utf-8")
        assert "send_fds(" not in source
        assert "recv_fds(" not in source
        assert ".sendmsg(" not in source


WAITS = {"print", "input", "sendall", "sendfile", "makefile", "run", "Popen", "system", "write", "sendmsg"}
"""Functions that may wait for another process, whatever they are called on."""
NOT_THE_GUARDIAN = {
    "guardian/log_writer.py": "the log writer",
    "guardian/log_output.py": "the log writer",
    "guardian/forked_child.py": "a child, after the fork",
    "guardian/__main__.py": "before the guardian runs",
    "guardian/process_limits.py": "a child, after the fork: its own /proc/self/oom_score_adj",
    "guardian/cleaner.py": "the cleaner, once the guardian is dead",
}
GUARDIAN = [path for path in FILES if path.parent.name == "guardian"]


@pytest.mark.parametrize("path", GUARDIAN, ids=[path.name for path in GUARDIAN])
def test_the_guardian_calls_nothing_that_waits_for_a_reader(path: Path) -> None:
    name = str(path.relative_to(SOURCE))
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and ast.unparse(node) in {"sys.stdout", "sys.stderr"}:
            found.append(ast.unparse(node))
        elif isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in WAITS and not (called == "run" and not ast.unparse(node.func).startswith("subprocess.")):
                found.append(ast.unparse(node))
    assert not found or name in NOT_THE_GUARDIAN, found


OF_A_PROCESS = re.compile(r"/proc/\{[^}]*\}/(\w+)")
IN_ITS_MEMORY = {"cmdline", "environ", "auxv", "maps", "smaps", "numa_maps", "pagemap"}
"""Files of /proc/PID that are read out of the process's memory, or under its lock: it can make their reader wait."""
READ_ELSEWHERE = {"guardian/cleaner.py": "in processes of its own, which are given up after half a second"}


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(SOURCE)) for path in FILES])
def test_no_file_of_a_process_is_read_that_it_can_make_wait(path: Path) -> None:
    found = IN_ITS_MEMORY & set(OF_A_PROCESS.findall(path.read_text(encoding="utf-8")))
    assert bool(found) == (str(path.relative_to(SOURCE)) in READ_ELSEWHERE), found
