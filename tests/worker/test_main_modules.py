"""A module, a directory and a zip file in a worker are what they are alone."""

from __future__ import annotations

import json
import zipapp
from typing import TYPE_CHECKING

import pytest

from tests.worker.harness import Worker, write
from tests.worker.test_script import alone

if TYPE_CHECKING:
    from pathlib import Path

FACTS = """
import json, sys
import beside
print(json.dumps({
    "names": sorted(vars()), "argv": sys.argv, "path": sys.path, "file": __file__, "name": __name__,
    "spec": [__spec__.name, __spec__.origin, __spec__.parent], "loader": type(__loader__).__name__,
    "package": __package__, "doc": __doc__, "main": sys.modules["__main__"].__dict__ is globals(),
    "orig_argv": getattr(sys, "orig_argv", [])[-4:], "beside": beside.__file__,
}))
"""
FAILS = "def f():\n    raise ValueError('no')\n\nf()\n"


def app(place: Path, source: str) -> str:
    write(place / "beside.py", "")
    write(place / "queue.py", "x = 1\n")  # a name of the standard library's
    return write(place / "__main__.py", "import queue\nqueue.x\n" + source)


def targets(here: Path, source: str) -> dict[str, tuple[str, list[str]]]:
    """Kind -> how a worker is given it, and how the interpreter is."""
    app(here / "app", source)
    app(here / "package", source)
    write(here / "package" / "__init__.py", "")
    write(here / "package" / "module.py", source)
    write(here / "beside.py", "")
    write(here / "queue.py", "x = 1\n")
    archive, program = here / "app.pyz", here / "program"
    zipapp.create_archive(here / "app", archive)
    zipapp.create_archive(here / "app", program, "/usr/bin/env python3", compressed=True)
    return {
        "directory": (str(here / "app"), [str(here / "app")]),
        "archive": (str(archive), [str(archive)]),
        "program": (str(program), [str(program)]),
        "package": ("package", ["-m", "package"]),
        "module": ("package.module", ["-m", "package.module"]),
    }


KINDS = ("directory", "archive", "program", "package", "module")


@pytest.mark.parametrize("kind", KINDS)
def test_it_finds_what_it_finds_alone(python: str, tmp_path: Path, kind: str) -> None:
    target, words = targets(tmp_path, FACTS)[kind]
    worker_kind = "module" if words[0] == "-m" else "script"
    with Worker(worker_kind, target, "a", "-b", python=python, cwd=tmp_path) as worker:
        assert worker.wait() == 0, worker.output
        code, text = alone(python, *words, "a", "-b", cwd=tmp_path)
        assert code == 0, text
        assert json.loads(worker.output) == json.loads(text)


@pytest.mark.parametrize("kind", KINDS)
def test_it_fails_as_it_does_alone(python: str, tmp_path: Path, kind: str) -> None:
    target, words = targets(tmp_path, FAILS)[kind]
    worker_kind = "module" if words[0] == "-m" else "script"
    with Worker(worker_kind, target, python=python, cwd=tmp_path) as worker:
        assert (worker.wait(), worker.output.rstrip("\n")) == alone(python, *words, cwd=tmp_path)


@pytest.mark.parametrize("name", ["nosuch", "json.nosuch", "xml"])
def test_a_module_that_cannot_be_run_is_told_as_alone(python: str, tmp_path: Path, name: str) -> None:
    with Worker("module", name, python=python, cwd=tmp_path) as worker:
        assert (worker.wait(), worker.output.rstrip("\n")) == alone(python, "-m", name, cwd=tmp_path)
