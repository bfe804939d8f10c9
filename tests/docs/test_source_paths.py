"""The pages name source files, functions and import rules that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.test_layers import MAY_IMPORT, SOURCE

ROOT = Path(__file__).parent.parent.parent
PAGES = sorted(page for pattern in ("*.md", "docs/**/*.md", "*/README.md") for page in ROOT.glob(pattern))
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")

PATH = re.compile(r"`([\w-]+(?:/[\w-]+)+(?:\.py)?)(?:: \w+|::\w+)?`")
NOT_OURS = re.compile(r"^(?:[A-Z]|api/|task/)")
"""Paths in /proc, and routes of the API."""
FUNCTION = re.compile(r"`([\w/]+\.py): (\w+)`")

PACKAGES = re.compile(r"^\| `(\w+)` \| .*? \| ([^|]*?) ?\|$", re.MULTILINE)


def candidates(name: str) -> list[Path]:
    """Return the files and directories that *name* may mean: of the source, the tests or the project."""
    return [base / (name + suffix) for base in (SOURCE, ROOT / "tests", ROOT) for suffix in ("", ".py")]


def names_in(path: Path) -> set[str]:
    """Return the names of all functions and classes that the file defines."""
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    return {node.name for node in nodes if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))}


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_each_path_in_a_page_exists(page: Path) -> None:
    named = {name for name in PATH.findall(page.read_text(encoding="utf-8")) if not NOT_OURS.match(name)}
    tops = {path.name for base in (SOURCE, ROOT / "tests", ROOT) for path in base.iterdir() if path.is_dir()}
    ours = {name for name in named if name.partition("/")[0] in tops}
    assert [name for name in sorted(ours) if not any(path.exists() for path in candidates(name))] == []


@pytest.mark.parametrize(("file", "name"), sorted(set(FUNCTION.findall(ARCHITECTURE))))
def test_each_function_in_a_path_through_the_code_exists(file: str, name: str) -> None:
    path = next(path for path in candidates(file) if path.exists())
    assert name in names_in(path)


def test_the_four_paths_through_the_code_are_complete() -> None:
    section = ARCHITECTURE.partition("## Where to find it in the code")[2].partition("\n## ")[0]
    paths = re.findall(r":\n\n((?:\d\. .*\n)+)", section)
    assert len(paths) == 4
    for path in paths:
        assert all(FUNCTION.search(line) for line in path.splitlines())


def test_the_table_of_packages_shows_the_import_rules() -> None:
    shown = {
        part: set(re.findall(r"`([\w.]+)`", imports))
        for part, imports in PACKAGES.findall(ARCHITECTURE.partition("## Packages")[2].partition("\n## ")[0])
    }
    left_out = {"", "__main__", "_version"}  # they re-export names, start the command line, and hold the version
    assert shown == {part: others - {part} for part, others in MAY_IMPORT.items() if part not in left_out}


def test_the_map_for_contributors_has_every_package() -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    packages = {path.name for path in SOURCE.iterdir() if (path / "__init__.py").exists()}
    assert {name for name in packages if f"\n| `{name}` |" not in page} == set()


OTHER_NAMES = {"__main__", "bind", "on_worker_stop", "cservice/start"}
"""System calls and functions in these tables."""

PACKAGE_DOCS = {
    path: ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) for path in SOURCE.rglob("__init__.py")
}


@pytest.mark.parametrize("path", sorted(PACKAGE_DOCS), ids=lambda path: str(path.relative_to(SOURCE)))
def test_the_table_of_a_package_names_its_modules(path: Path) -> None:
    """A table row begins with a name and two spaces, and may continue in an indented line."""
    rows = re.findall(r"^(``\w+``  .*|  +``.*)$", PACKAGE_DOCS[path] or "", re.MULTILINE)
    named = {name.replace(".", "/") for row in rows for name in re.findall(r"``([a-z_.]+)``", row)} - OTHER_NAMES
    assert {name for name in named if not any((path.parent / f"{name}{end}").exists() for end in (".py", ""))} == set()
