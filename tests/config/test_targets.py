"""What a target is, where it is, and which interpreter runs it."""

from __future__ import annotations

import ast
import os
import sys
import zipapp
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster_service.config.releases import release_of
from tests.config.asking import make, release, sentence


@pytest.mark.parametrize(
    ("target", "kind", "located"),
    [
        ("worker.py", "script", "{here}/worker.py"),
        ("./worker.py", "script", "{here}/worker.py"),
        ("releases/../worker.py", "script", "{here}/worker.py"),
        ("broken.py", "script", "{here}/broken.py"),
        ("shop:application", "app", "shop:application"),
        ("shop:application.handler", "app", "shop:application.handler"),
    ],
)
def test_what_a_target_is(here: Path, target: str, kind: str, located: str) -> None:
    found = release(target)
    assert (found.kind, found.target) == (kind, located.format(here=here))
    assert found.python == sys.executable


def test_an_app_is_served_where_it_is_bound() -> None:
    assert release("shop:application").binds == ("127.0.0.1:8000",)
    bound = release("shop:application", bind=[":8001", "unix:shop.sock", ":8001"])
    assert bound.binds == ("0.0.0.0:8001", f"unix:{Path.cwd()}/shop.sock")


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("nosuch.py", ("no such file: nosuch.py",)),
        ("wroker.py", ("wroker.py", "did you mean 'worker.py'?")),
        ("releases", ("releases", "is a directory")),
        ("./nosuch", ("no such file: ./nosuch",)),
        ("nosuch", ("'nosuch'", "PATH", "-- node server.js")),
        ("nosuch:app", ("no module 'nosuch'",)),
        ("shopp:application", ("no module 'shopp'", "did you mean 'shop'?")),
        ("shop.inner:app", ("no module 'shop.inner'",)),
        ("shop:app", ("shop.py", "defines no 'app'", "application")),
        ("shop:", ("package.module:app",)),
        ("shop:1", ("package.module:app",)),
        (":app", ("package.module:app",)),
        (None, ("TARGET", "worker.py")),
    ],
)
def test_a_target_that_is_not_there(target: str | None, words: tuple[str, ...]) -> None:
    told = sentence(lambda: make(target))
    for word in words:
        assert word in told


def test_a_program(here: Path) -> None:
    (here / "serve").write_text("#!/bin/sh\n")
    (here / "serve").chmod(0o755)
    found = release("sh", "-c", "exit", program=True)
    assert (found.kind, found.args, found.python) == ("command", ("-c", "exit"), "")
    assert os.path.isabs(found.target)
    assert release("./serve", program=True).target == str(here / "serve")
    assert release("serve").kind == "command"
    assert release("sh").kind == "command"
    (here / "serve").write_text("#!/usr/bin/env python3\n")
    assert release("serve").kind == "script"


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("nosuch-program", ("nosuch-program", "PATH")),
        ("./nosuch", ("./nosuch",)),
        ("./worker.py", ("not executable", "chmod +x")),
        ("worker.py", ("'worker.py'", "To run the file")),
    ],
)
def test_a_program_that_is_not_there(target: str, words: tuple[str, ...]) -> None:
    told = sentence(lambda: make(target, program=True))
    for word in words:
        assert word in told


def test_the_target_is_the_caller_s_and_the_directory_the_workers(here: Path) -> None:
    found = release("worker.py", cwd="releases")
    assert (found.target, found.cwd) == (str(here / "worker.py"), str(here / "releases"))
    found = release("v2.py", cwd="releases")
    assert found.target == str(here / "releases" / "v2.py")


def fake_venv(directory: Path) -> str:
    """A virtual environment as far as starting its interpreter goes."""
    python = directory / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    return str(python)


def test_the_target_s_own_virtual_environment(here: Path) -> None:
    beside = fake_venv(here / "releases")
    assert release("releases/v2.py").python == beside
    assert release("worker.py").python == sys.executable
    assert release("worker.py", cwd="releases").python == beside
    own = fake_venv(here)
    assert release("worker.py").python == own
    assert release("worker.py", python="releases/.venv").python == beside
    assert release("worker.py", python="releases/.venv/bin/python").python == beside
    (here / "releases" / ".venv").rename(here / "venv")
    assert release("worker.py", python="venv").python == f"{here}/venv/bin/python"
    assert "releases is not a virtual environment" in sentence(lambda: release("worker.py", python="releases"))
    (here / "venv").rename(here / "releases" / ".venv")
    assert release("releases/v2.py").python == beside


def test_the_virtual_environment_that_is_active(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    active = fake_venv(here / "active")
    monkeypatch.setenv("VIRTUAL_ENV", str(here / "active" / ".venv"))
    assert release("worker.py").python == active
    assert release("shop:application").python == active
    assert release("sh", program=True).python == ""
    chosen = release("worker.py", python=sys.executable)
    assert chosen.python == sys.executable
    for current in (release("worker.py"), chosen):
        new = release_of("worker.py", {}, directory=str(here), current=current)
        assert new.python == current.python, "what was chosen counts more than what is active"
    own = fake_venv(here)
    assert release("worker.py").python == own, "the target's own counts more"


@pytest.mark.parametrize("home", ["nosuch", "/nosuch", "", sys.prefix, "/etc"])
def test_an_active_environment_that_is_none_or_ours_is_no_other(monkeypatch: pytest.MonkeyPatch, home: str) -> None:
    monkeypatch.setenv("VIRTUAL_ENV", home)
    assert release("worker.py").python == sys.executable


def test_an_active_environment_goes_with_the_release_that_it_belongs_to(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    active = fake_venv(here / "releases")
    monkeypatch.setenv("VIRTUAL_ENV", str(here / "releases" / ".venv"))
    current = replace(release("v2.py", cwd="releases"), python=active)
    new = release_of("worker.py", {}, directory=str(here), current=current)
    assert new.python == sys.executable


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("from stdlib import *\n", True),
        ("globals()['app'] = 1\n", True),
        ("def __getattr__(name): return 1\n", True),
        ("import sys\nsys.modules[__name__].app = 1\n", True),
        ("try:\n    app = 1\nexcept ImportError:\n    pass\n", True),
        ("if (app := 1):\n    pass\n", True),
        ("with open('x') as app:\n    pass\n", True),
        ("for app in []:\n    pass\n", True),
        ("(app, other), *rest = []\n", True),
        ("def make():\n    global app\n    app = 1\n", True),
        ("import package.app as app\n", True),
        ("from package import app\n", True),
        ("class app: pass\n", True),
        ("async def app(): pass\n", True),
        ("this does not compile\n", True),
        ("def make():\n    app = 1\n", False),
        ("class Maker:\n    app = 1\n", False),
        ("appp = 1\n", False),
        ("", False),
    ],
)
def test_an_app_is_refused_only_when_it_is_surely_not_there(here: Path, source: str, found: bool) -> None:
    (here / "module.py").write_text(source)
    if found:
        assert release("module:app").target == "module:app"
    else:
        assert "defines no 'app'" in sentence(lambda: make("module:app"))


def test_packages(here: Path) -> None:
    (here / "site" / "inner").mkdir(parents=True)  # without __init__.py
    (here / "site" / "inner" / "web.py").write_text("app = 1\n")
    (here / "whole").mkdir()
    (here / "whole" / "__init__.py").write_text("")
    (here / "whole" / "app.py").write_text("")
    (here / "own").mkdir()
    (here / "own" / "web.py").write_text("app = 1\n")
    for target in ("site.inner.web:app", "whole:app", "own.web:app"):
        if target.startswith("site."):
            continue  # the standard library's module of that name comes first or not: nothing is sure
        assert release(target).target == target
    assert "no module 'whole.nosuch'" in sentence(lambda: make("whole.nosuch:app"))
    assert "did you mean 'web'?" in sentence(lambda: make("own.wbe:app"))
    assert release("web:app", cwd="own").cwd == str(here / "own")
    assert release("own.web:app", env={"PYTHONPATH": "nowhere"}).env == (("PYTHONPATH", "nowhere"),)
    assert release("web:app", env={"PYTHONPATH": str(here / "own")}).target == "web:app"


def test_the_probe_can_be_read_by_every_python_that_workers_may_have() -> None:
    from cluster_service.config import target_probe

    ast.parse(Path(target_probe.__file__).read_text(encoding="utf-8"), feature_version=(3, 9))


def test_another_python_that_is_too_old(here: Path) -> None:
    (here / "python2").write_text("#!/bin/sh\necho '{\"version\": [3, 8]}'\n")
    (here / "python2").chmod(0o755)
    told = sentence(lambda: make(python="./python2"))
    assert "Python 3.8" in told
    assert "3.9" in told


def test_the_first_line_of_a_console_script_names_its_interpreter(here: Path) -> None:
    other = fake_venv(here / "other")
    bin_directory = Path(other).parent
    (bin_directory / "python3.13").symlink_to("python")
    script = bin_directory / "flask"
    script.touch(mode=0o755)

    def under(line: str, name: str = "flask", **options: Any) -> str:
        (bin_directory / name).write_text(f"{line}\nprint(1)\n")
        (bin_directory / name).chmod(0o755)
        made = make(str(bin_directory / name), **options)
        python = made.spec.groups[0].release.python
        said = [warning for warning in made.warnings if "first line" in warning]
        assert len(said) == (python not in (sys.executable, own) and not options)
        assert all(python in warning and "--python" in warning for warning in said)
        return str(python)

    own = ""
    assert under(f"#!{other}") == other
    assert under(f"#! {other}3.13 -E") == f"{other}3.13"
    assert under(f"#!{other}", python=sys.executable) == sys.executable
    assert under(f"#!{sys.prefix}/bin/python") == sys.executable, "ours"
    assert under("#!/usr/bin/env python3") == sys.executable
    assert under(f"#!{here}/nosuch/bin/python") == sys.executable
    assert under(f"#!{other}", "worker.py") == sys.executable
    own = fake_venv(here)
    assert under(f"#!{other}") == other, "it was named, in a way"
    assert under("#!/usr/bin/env python3") == own
    new = release_of(str(script), {}, directory=str(here), current=replace(release("worker.py"), python=sys.executable))
    assert new.python == own
    under(f"#!{other}")
    new = release_of(str(script), {}, directory=str(here), current=replace(release("worker.py"), python=sys.executable))
    assert new.python == other


def test_a_module_a_directory_and_a_zip_file(here: Path) -> None:
    (here / "tool").mkdir()
    (here / "tool" / "__main__.py").write_text("")
    zipapp.create_archive(here / "tool", here / "tool.pyz")
    zipapp.create_archive(here / "tool", here / "program", "/usr/bin/env python3")
    found = release("-m http.server", "8000")
    assert (found.kind, found.target, found.args, found.python) == (
        "module", "-m http.server", ("8000",), sys.executable,
    )  # fmt: skip
    assert release("-mtool").target == "-m tool"
    for name in ("tool", "tool/", "tool.pyz", "program", "tool/__main__.py"):
        assert (release(name).kind, release(name).target) == ("script", str(here / name).rstrip("/")), name
    own = fake_venv(here / "tool")
    assert release("tool").python == own
    assert release("tool.pyz", python=own).kind == "script", "an interpreter that must be asked"


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("-m nosuch", ("no module 'nosuch'", "--cwd and --python")),
        ("-m http.nosuch", ("no module 'http.nosuch'",)),
        ("-m xml", ("'xml' is a package without __main__", "-m xml.…")),
        ("-m shop:app", ("names no module", "-m package.module")),
        ("releases", ("releases is a directory without a __main__.py", "-m package.module")),
        ("http.server", ("no program on the PATH", "-m http.server")),
    ],
)
def test_a_module_that_cannot_be_run(here: Path, target: str, words: tuple[str, ...]) -> None:
    told = sentence(lambda: make(target))
    assert all(word in told for word in words), told


def test_an_app_that_a_function_makes(here: Path) -> None:
    (here / "flaskr").mkdir()
    (here / "flaskr" / "__init__.py").write_text("def create_app(config=None): ...\n")
    for target in ("flaskr:create_app", "flaskr:create_app()", "flaskr:create_app('a.b', debug=True)"):
        assert (release(target).kind, release(target).target) == ("app", target)
    told = sentence(lambda: make("flaskr:app"))
    assert "defines no 'app'" in told
    assert "For an app that a function makes: flaskr:create_app" in told
    assert "flaskr:app, or flaskr:create_app" in sentence(lambda: make("flaskr"))
    assert "defines no 'make'" in sentence(lambda: make("flaskr:make('a.b')"))
    for target in ("flaskr:create_app(open('x'))", "flaskr:create_app(x)", "flaskr:create_app(1)(2)"):
        assert "not constants" in sentence(lambda: make(target))  # noqa: B023 - called at once
