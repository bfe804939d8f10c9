"""Which part may import which. The rules stand here once; a new package must be given one."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "cluster_service"

STDLIB_ONLY = {"core", "wire", "guardian", "worker", "machine"}
"""These run where nothing is installed, under the user's interpreter or in the process that must not die."""

MAY_IMPORT = {
    "core": {"core", "wire"},
    "wire": {"wire"},
    "guardian": {"guardian", "wire", "machine"},
    "worker": {"worker", "wire", "machine"},
    "machine": {"machine"},
    "master": {"master", "machine", "core", "wire", "control", "worker", "config", "rundir", "boot", ""},
    "control": {"control", "machine", "core", "wire", "config", "rundir", "boot", ""},
    "config": {"config", "machine", "core", "wire", "rundir", "control.errors", ""},
    "rundir": {"rundir", "machine", "control.errors", ""},
    "boot": {"boot", "machine", "core", "wire", "config", "rundir", "control.errors", "control.client", ""},
    "testing": {"testing", "core", "wire", ""},
    "": {"master", "worker", "control"},  # __init__.py, which imports names when they are first used
    "__main__": {"control"},
}
"""Part -> the parts, or single modules of them, that it may import. ``""`` is the package itself (its version)."""


def part_of(path: Path) -> str:
    """``control`` for control/http.py, ``config`` for config.py, empty for the package's own __init__.py."""
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
    "worker/granian_child.py": {"granian"},
    "worker/serve_granian.py": {"granian"},
    "worker/serve_uvicorn.py": {"uvicorn", "a2wsgi"},
}
"""Files of the worker that run a server of the user's, and so import it from the user's environment."""
