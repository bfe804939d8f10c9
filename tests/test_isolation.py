"""Our own processes import nothing from the Python environment of the user."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest

from cluster_service import isolation

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "cluster_service"
OF_THE_USER = {("launcher.py", "again"), ("service_api.py", "sys.orig_argv")}
"""A program of the user's that is the master: it is run with everything that the user gave it."""
CSERVICE = str(Path(sysconfig.get_path("scripts")) / "cservice")


def unisolated(path: Path) -> list[str]:
    """Return the words in *path* that run our interpreter without -I."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        words = [ast.unparse(word) for word in node.elts] if isinstance(node, (ast.List, ast.Tuple)) else []
        if len(words) < 2 or words[0] != "sys.executable":
            continue
        second = words[1]
        if second != "'-I'" and not any(path.name == name and part in second for name, part in OF_THE_USER):
            found.append(ast.unparse(node))
    return found


@pytest.mark.parametrize("path", [path for path in SOURCE.rglob("*.py") if path.parent.name != "worker"], ids=str)
def test_our_interpreter_is_always_started_isolated(path: Path) -> None:
    assert unisolated(path) == []


def test_what_is_looked_for_is_what_the_package_depends_on() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert [entry.partition(">")[0] for entry in project["dependencies"]] == list(isolation.DEPENDENCIES)


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A directory of modules that have the names of our dependencies, and that cannot be imported."""
    folder = tmp_path / "vendor"
    folder.mkdir()
    for name in (*isolation.DEPENDENCIES, "anyio", "h11", "typing_extensions", "cluster_service"):
        (folder / f"{name}.py").write_text(f"raise RuntimeError('the {name} of the user')\n")
    return folder


@pytest.mark.parametrize(
    "words",
    [isolation.command("cluster_service.__main__:main"), isolation.command("cluster_service.__main__:main_detached")],
    ids=["cservice", "cserviced"],
)
def test_a_module_in_the_users_path_is_not_ours(hostile: Path, words: list[str]) -> None:
    env = {**os.environ, "PYTHONPATH": str(hostile), "PYTHONOPTIMIZE": "2", "PYTHONWARNINGS": "error"}
    done = subprocess.run([*words, "--help"], capture_output=True, text=True, cwd=hostile, env=env, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "TARGET" in done.stdout or "start" in done.stdout


@pytest.mark.parametrize(
    "variables", [{"PYTHONPATH": "."}, {"PYTHONOPTIMIZE": "2"}, {"PYTHONWARNINGS": "error"}, {}], ids=str
)
def test_the_command_line_isolates_itself(hostile: Path, variables: dict[str, str]) -> None:
    (hostile / "cluster_service.py").unlink()  # the first line of the program must find ours
    for words in ([CSERVICE], [sys.executable, "-m", "cluster_service"]):
        done = subprocess.run(
            [*words, "help", "restart"], capture_output=True, text=True, cwd=hostile, env={**os.environ, **variables},
            check=False,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")
        assert "Replace workers" in done.stdout


def test_a_package_outside_of_site_packages_finds_itself_and_its_dependencies(tmp_path: Path) -> None:
    """As ``pip install --target DIR`` leaves it, and as PYTHONPATH is set for that."""
    vendor = tmp_path / "vendor"
    vendor.mkdir()
    bare = [sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")]
    subprocess.run(bare, check=True)
    installed = Path(sysconfig.get_path("purelib"))
    for entry in installed.iterdir():
        if entry.suffix != ".pth" and not entry.name.startswith("__editable__"):
            (vendor / entry.name).symlink_to(entry)
    (vendor / "cluster_service").symlink_to(SOURCE)
    python = str(tmp_path / "venv" / "bin" / "python")
    env = {**os.environ, "PYTHONPATH": str(vendor)}
    script = [python, "-c", "from cluster_service.__main__ import main; main()", "version"]
    done = subprocess.run([*script], capture_output=True, text=True, cwd=tmp_path, env=env, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip()
