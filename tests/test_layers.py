"""The import rules of the packages. Every package needs a row in ``MAY_IMPORT``."""

from __future__ import annotations

import ast
import graphlib
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "cluster_service"

STDLIB_ONLY = {"core", "wire", "guardian", "worker", "machine", "isolation"}
"""These run where nothing is installed, under the user's interpreter or in the process that must not die."""

MAY_IMPORT = {
    "core": {"core", "wire"},
    "wire": {"wire"},
    "guardian": {"guardian", "wire", "machine"},
    "worker": {"worker", "wire", "machine"},
    "machine": {"machine"},
    "errors": set(),
    "_version": set(),
    "rundir": {"rundir", "machine", "errors"},
    "config": {"config", "machine", "core", "wire", "rundir", "errors"},
    "systemd": {"systemd", "config", "core", "errors", "isolation", "wire"},
    "commands": {"commands", "config", "rundir", "errors", "wire", "_version", "client.client", "systemd"},
    "client": {"client", "commands", "config", "rundir", "errors"},
    "server": {"server", "commands", "config", "core", "errors", "machine", "_version"},
    "launcher": {"launcher", "isolation", "machine", "config", "rundir", "errors", "client"},
    "cli": {
        "cli", "client", "commands", "config", "core", "errors", "isolation", "machine", "rundir", "launcher", "wire",
        "_version",
    },
    "master": {
        "master", "commands", "config", "core", "errors", "isolation", "machine", "server", "launcher", "systemd",
        "wire", "worker", "_version", "cli.console",
    },
    "testing": {"testing", "core", "wire"},
    "": {"master", "worker", "client", "errors", "_version"},  # __init__.py imports names when they are first used
    "__main__": {"cli", "isolation"},
    "isolation": set(),  # it runs before anything of ours can be imported
}
"""Part -> the parts, or single modules of them, that it may import. ``""`` is the package itself (its version)."""


def part_of(path: Path) -> str:
    """``server`` for server/http_server.py, ``config`` for config.py, empty for the package's own __init__.py."""
    first = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    return "" if first == "__init__" else first


def imported(path: Path) -> set[str]:
    """The absolute names of the modules that *path* imports, at any depth; those for type checkers too."""
    package = ("cluster_service", *path.relative_to(SOURCE).parts[:-1])
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (base, node.module or "") if part)
            found |= {f"{module}.{alias.name}" for alias in node.names} if module == "cluster_service" else {module}
    return found


FILES = sorted(SOURCE.rglob("*.py"))

def module_name(path: Path) -> str:
    """Return ``cluster_service.core.engine.step`` for core/engine/step.py; for an __init__.py, its package."""
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(("cluster_service", *(parts[:-1] if parts[-1] == "__init__" else parts)))


MODULES = {module_name(path): path for path in FILES}


def modules_imported(path: Path) -> set[str]:
    """Return our modules that the file imports at any place: ``from . import a`` imports the module a."""
    package = ("cluster_service", *path.relative_to(SOURCE).parts[:-1])
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (base, node.module or "") if part)
            names = {f"{module}.{alias.name}" for alias in node.names}
            modules = names & MODULES.keys()
            found |= modules if modules == names else modules | {module}
    return (found & MODULES.keys()) - {module_name(path)}


GRAPH = {name: modules_imported(path) for name, path in MODULES.items()}
"""Module -> the modules that it imports at module level, within functions, or for type checkers."""

RUNS_BACK = {
    # an import against the direction of the packages: the reason
    ("commands", "client"): "ls queries every running service, and imports the client when there is one",
}


def cycle_of(graph: dict[str, set[str]]) -> list[str]:
    """Return the first import cycle of *graph*, or an empty list."""
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return list(error.args[1])
    return []


def between_parts(depth: int) -> dict[str, set[str]]:
    """Return the imports between packages, named by their first *depth* names below ``cluster_service``."""
    graph: dict[str, set[str]] = {}
    for name, others in GRAPH.items():
        part = ".".join(name.split(".")[1 : depth + 1])
        targets = {".".join(other.split(".")[1 : depth + 1]) for other in others}
        graph.setdefault(part, set()).update(target for target in targets if (part, target) not in RUNS_BACK)
    return {part: targets - {part} for part, targets in graph.items()}


def test_no_module_imports_itself_through_others() -> None:
    assert cycle_of(GRAPH) == []


@pytest.mark.parametrize(
    "graph",
    [
        between_parts(1),
        {part: targets for part, targets in between_parts(2).items() if part.startswith("core")},
    ],
    ids=["packages", "packages of core"],
)
def test_no_package_imports_itself_through_others(graph: dict[str, set[str]]) -> None:
    assert len(graph) > 3
    assert cycle_of(graph) == []


@pytest.mark.parametrize(("part", "target"), RUNS_BACK, ids=str)
def test_each_exception_to_the_direction_is_needed(part: str, target: str) -> None:
    assert any(
        other.startswith(f"cluster_service.{target}")
        for name, others in GRAPH.items() if name.startswith(f"cluster_service.{part}.") for other in others
    )  # fmt: skip


@pytest.mark.parametrize(("part", "other"), [("cli", "server"), ("server", "cli")])
def test_the_command_line_and_the_server_are_separate(part: str, other: str) -> None:
    """Neither may load the other, even through a third module, because they run in different processes."""
    found, todo = set(), [name for name in MODULES if name.startswith(f"cluster_service.{part}")]
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            todo += GRAPH[name]
    assert [name for name in found if name.startswith(f"cluster_service.{other}.")] == []


SAME_NAME = {"__init__.py", "__main__.py"}
"""Names that Python gives a meaning."""


def test_no_two_modules_have_the_same_name() -> None:
    by_name: dict[str, list[str]] = {}
    for path in FILES:
        if path.name not in SAME_NAME:
            by_name.setdefault(path.name, []).append(str(path.relative_to(SOURCE)))
    assert [paths for paths in by_name.values() if len(paths) > 1] == []


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(SOURCE)) for path in FILES])
def test_a_part_imports_only_what_it_may(path: Path) -> None:
    part = part_of(path)
    for name in imported(path):
        root, _, rest = name.partition(".")
        if root == "cluster_service":
            other = rest.split(".")[0]
            known = other if (SOURCE / other).is_dir() or (SOURCE / f"{other}.py").exists() else ""
            assert known in MAY_IMPORT[part] or rest in MAY_IMPORT[part], f"{part} must not import {name}"
        elif part in STDLIB_ONLY:
            allowed = sys.stdlib_module_names | OPTIONAL.get(str(path.relative_to(SOURCE)), set())
            assert root in allowed, f"{part} must import the standard library only, not {name}"


@pytest.mark.parametrize("part", MAY_IMPORT)
def test_each_permission_is_used(part: str) -> None:
    used = {name.removeprefix("cluster_service.") for path in FILES if part_of(path) == part for name in imported(path)}
    unused = {
        other for other in MAY_IMPORT[part] - {part} if not any(f"{name}.".startswith(f"{other}.") for name in used)
    }
    assert unused == set(), f"{part} does not import them: remove them from MAY_IMPORT"


OPTIONAL: dict[str, set[str]] = {
    "worker/granian_server.py": {"granian"},
    "worker/drains/uvicorn_server.py": {"uvicorn", "a2wsgi"},
}
"""Files of the worker that run a server of the user's, and so import it from the user's environment."""


PATCHABLE = {"os", "select", "time", "socket", "_thread", "threading", "selectors"}
"""Modules of which gevent and eventlet replace functions."""
BEFORE_THE_PROGRAM = {
    # These run before the program, or take nothing from there that is replaced, or must be seen by the program.
    "entry_point.py", "startup.py", "script.py", "app_loader.py", "app_sockets.py", "program_api.py", "job.py",
    "unpatched.py", "port_sharing.py",
}  # fmt: skip
SEEN_BY_THE_PROGRAM = {
    # file: what it shares with the program's own threads and sockets
    "stop_callback.py": {"threading"},
    "forced_exit.py": {"threading"},
    "granian_server.py": {"socket"},
    "heartbeat.py": {"os"},
    "drains/socket_server.py": {"socket", "threading", "selectors"},
    "drains/uvicorn_server.py": {"socket", "threading"},
    "drains/http_handlers.py": {"threading"},
}

WORKER = SOURCE / "worker"
RUNTIME = [path for path in sorted(WORKER.rglob("*.py")) if path.name not in BEFORE_THE_PROGRAM]


@pytest.mark.parametrize("path", RUNTIME, ids=[str(path.relative_to(WORKER)) for path in RUNTIME])
def test_the_runtime_takes_no_function_that_the_program_may_have_replaced(path: Path) -> None:
    allowed = SEEN_BY_THE_PROGRAM.get(str(path.relative_to(WORKER)), set())
    assert imported(path) & PATCHABLE <= allowed, "take it from worker.unpatched"
