"""Whether a release can be run at all, found out without running it."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from cluster_service.config.releases import check_release
from cluster_service.core.model.spec import Release
from cluster_service.errors import CommandError
from cluster_service.machine import identity
from tests.worker.harness import interpreters

DEADLINE = 20.0


def checked(release: Release, timeout: float = 30.0) -> str:
    """What is wrong with *release*; empty: nothing."""
    try:
        check_release(release, identity=identity.OWN, environ=dict(os.environ), timeout=timeout)
    except CommandError as error:
        return error.message if (error.code, error.hint) == ("failed", "") else repr(error)
    return ""


def script(here: Path, text: str, python: str = sys.executable) -> Release:
    (here / "v2.py").write_text(text)
    return Release("script", f"{here}/v2.py", cwd=str(here), python=python)


def app(here: Path, target: str) -> Release:
    return Release("app", target, cwd=str(here), python=sys.executable)


def a_python(here: Path, text: str) -> str:
    (here / "python").write_text(f"#!/bin/sh\n{text}\n")
    (here / "python").chmod(0o755)
    return f"{here}/python"


@pytest.mark.parametrize("python", interpreters(), ids=os.path.basename)
def test_nothing_of_it_is_run_and_nothing_is_written(here: Path, python: str) -> None:
    release = script(here, "import nosuch\nopen('ran', 'w')\n", python)
    (here / "shop.py").write_text("open('ran', 'w')\napp = 1\n")
    before = sorted(here.rglob("*"))
    assert checked(release) == ""
    assert checked(replace(release, kind="app", target="shop:app")) == ""
    assert sorted(here.rglob("*")) == before


def test_what_does_not_compile_is_told_as_python_would(here: Path) -> None:
    told = checked(script(here, "import os\n\ndef f(:\n    pass\n"))
    assert told.startswith(f"{here}/v2.py does not compile ({sys.executable}):\n")
    assert f'  File "{here}/v2.py", line 3\n    def f(:\n' in told
    assert "^" in told
    assert told.splitlines()[-1].startswith("SyntaxError: ")


@pytest.mark.parametrize("text", ["x = '\0'\n", "if 1:\npass\n", "return 1\n", "# coding: nosuch\n", "x = '\udcff'\n"])
def test_everything_that_does_not_compile(here: Path, text: str) -> None:
    (here / "v2.py").write_bytes(text.encode("utf-8", "surrogateescape"))
    told = checked(Release("script", f"{here}/v2.py", cwd=str(here), python=sys.executable))
    assert "does not compile" in told
    assert "Error: " in told


def test_warnings_are_no_errors(here: Path) -> None:
    assert checked(script(here, "print('\\d')\nassert (1, 2)\n")) == ""


def test_the_interpreter_that_is_to_run_it_compiles_it(here: Path) -> None:
    newer = a_python(here, """echo '{"version": [3, 99], "broken": ""}'""")
    assert checked(script(here, "this is fine in Python 3.99\n", newer)) == ""


@pytest.mark.parametrize(
    ("target", "files", "words"),
    [
        ("nosuch:app", {}, ("nosuch:app: there is no module 'nosuch'", "--python")),
        ("web:app", {"web.py": "application = 1\n"}, ("web.py defines no 'app'", "application")),
        ("web:app", {"web.py": "def (:\n"}, ("web:app does not compile", "web.py", "line 1")),
        ("own.web:app", {"own/__init__.py": "", "own/web.py": "\n(\n"}, ("own/web.py", "line 2")),
        ("own.web:app", {"own/__init__.py": "1 +\n", "own/web.py": "app = 1\n"}, ("own/__init__.py", "line 1")),
        ("own.web:app", {"own/__init__.py": "", "own/web.py": "app = 1\n"}, ()),
        ("own.web:app", {"own/web.py": "app = 1\n"}, ()),
    ],
)
def test_apps(here: Path, target: str, files: dict[str, str], words: tuple[str, ...]) -> None:
    for name, text in files.items():
        (here / name).parent.mkdir(exist_ok=True)
        (here / name).write_text(text)
    told = checked(app(here, target))
    assert bool(told) == bool(words)
    for word in words:
        assert word in told


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("exit 3", ("does not answer as a Python interpreter would", "'nothing'")),
        ("kill -KILL $$", ("was killed by SIGKILL before it answered",)),
        ("echo broken pipe >&2; exit 1", ("'broken pipe'",)),
        ("""echo '{"version": [3, 8]}'""", ("is Python 3.8", "3.9 or newer")),
        ("echo 'SyntaxError: future feature annotations is not defined' >&2", ("is an old Python",)),
    ],
)
def test_interpreters_that_are_none(here: Path, text: str, words: tuple[str, ...]) -> None:
    told = checked(script(here, "", a_python(here, text)))
    for word in words:
        assert word in told


def test_an_interpreter_that_does_not_answer_is_killed_with_what_it_started(here: Path) -> None:
    told = checked(script(here, "", a_python(here, "sleep 1000 & sleep 1000")), timeout=0.2)
    assert told == f"the interpreter {here}/python did not answer in 0.2 s"


def test_whoever_asks_is_killed_and_so_is_the_interpreter(here: Path) -> None:
    os.mkfifo(here / "pids")
    python = a_python(here, f"sleep 1000 & echo $$ $! > {here}/pids; wait")
    program = (
        "import os, sys; from cluster_service.config.releases import check_release;"
        "from cluster_service.core.model.spec import Release; from cluster_service.machine.identity import OWN;"
        "release = Release('script', sys.argv[1], cwd='/', python=sys.argv[2]);"
        "check_release(release, identity=OWN, environ=dict(os.environ))"
    )
    with subprocess.Popen([sys.executable, "-c", program, __file__, python]) as asks:
        pidfds = [os.pidfd_open(int(pid)) for pid in (here / "pids").read_text().split()]
        try:
            asks.kill()
            for pidfd in pidfds:
                assert select.select([pidfd], [], [], DEADLINE)[0], "the interpreter lives on"
        finally:
            for pidfd in pidfds:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                os.close(pidfd)


def test_what_is_gone(here: Path) -> None:
    release = script(here, "")
    assert checked(replace(release, cwd="/nowhere")) == "the directory /nowhere does not exist"
    assert checked(replace(release, target="/nowhere/v2.py")) == "no such file: /nowhere/v2.py"
    assert checked(replace(release, python="/nowhere/python")) == "there is no interpreter /nowhere/python"
    (here / "dangling").symlink_to("/nowhere/python")
    assert "there is no interpreter" in checked(replace(release, python=f"{here}/dangling"))
    (here / "python").write_text("#!/nowhere/sh\n")
    (here / "python").chmod(0o755)
    told = checked(replace(release, python=f"{here}/python"))
    assert told.endswith("does not start: the interpreter that its first line names does not exist")


def test_programs(here: Path) -> None:
    def told(name: str) -> str:
        return checked(Release("command", f"{here}/{name}", cwd=str(here)))

    (here / "serve").write_text("#!/bin/sh\n")
    assert told("serve") == f"{here}/serve is not executable\nchmod +x {here}/serve"
    (here / "serve").chmod(0o755)
    assert told("serve") == ""
    assert "there is no program" in told("nosuch")
    assert "is not a program" in told("releases")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_it_is_asked_as_the_workers_user() -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        place = Path(name)
        place.chmod(0o777)
        python = a_python(place, f"""id -u > {place}/who; echo '{{"version": [3, 12]}}'""")
        nobody = identity.of("65534", "65534")
        check_release(script(place, "", python), identity=nobody, environ=dict(os.environ))
        assert (place / "who").read_text() == "65534\n"


def test_users_that_there_are_not() -> None:
    if os.geteuid() == 0:
        with pytest.raises(identity.Unknown, match="no user nosuchuser"):
            identity.of("nosuchuser", None)
        with pytest.raises(identity.Unknown, match="no group nosuchgroup"):
            identity.of(None, "nosuchgroup")
    assert identity.of(None, None) == identity.OWN
