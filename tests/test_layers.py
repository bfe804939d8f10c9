"""Which part may import which. The rules stand here once; a new package must be given one."""

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
    "commands": {"commands", "core", "config", "rundir", "errors", "wire", "_version", "client.client", "systemd"},
    "client": {"client", "commands", "config", "rundir", "errors", "machine", "wire"},
    "server": {"server", "commands", "config", "core", "errors", "machine", "wire", "_version"},
    "launcher": {"launcher", "isolation", "machine", "wire", "config", "rundir", "errors", "client"},
    "cli": {
        "cli", "client", "commands", "config", "core", "errors", "isolation", "machine", "rundir", "launcher", "wire",
        "_version", "",
    },
    "master": {
        "master", "commands", "config", "core", "errors", "isolation", "machine", "rundir", "server", "launcher",
        "systemd", "wire", "worker", "_version", "cli.console", "",
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

WITHOUT_CYCLES = ("core",)
"""Packages whose modules do not import each other in a circle: not for type checkers, nor within functions either."""


def module_name(path: Path) -> str:
    """``cluster_service.core.engine.step`` for core/engine/step.py; a package's own name for its __init__.py."""
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(("cluster_service", *(parts[:-1] if parts[-1] == "__init__" else parts)))


def modules_imported(path: Path, modules: set[str]) -> set[str]:
    """Return which of *modules* the file imports, wherever the import stands: ``from . import a`` imports module a."""
    package = ("cluster_service", *path.relative_to(SOURCE).parts[:-1])
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (base, node.module or "") if part)
            submodules = {f"{module}.{alias.name}" for alias in node.names}
            found |= submodules & modules if submodules <= modules else (submodules & modules) | {module}
    return (found & modules) - {module_name(path)}


@pytest.mark.parametrize("part", WITHOUT_CYCLES)
def test_the_modules_of_a_package_do_not_import_each_other_in_a_circle(part: str) -> None:
    files = {module_name(path): path for path in FILES if part_of(path) == part}
    assert files
    graph = {name: modules_imported(path, set(files)) for name, path in files.items()}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(f"import cycle: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize("part", WITHOUT_CYCLES)
def test_the_subpackages_of_a_package_do_not_import_each_other_in_a_circle(part: str) -> None:
    files = {module_name(path): path for path in FILES if part_of(path) == part}

    def group(name: str) -> str:
        return ".".join(name.split(".")[:3])

    graph: dict[str, set[str]] = {}
    for name, path in files.items():
        graph.setdefault(group(name), set()).update(
            group(other) for other in modules_imported(path, set(files)) if group(other) != group(name)
        )
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(f"import cycle: {' -> '.join(error.args[1])}")


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
