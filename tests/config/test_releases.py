"""What ``upgrade TARGET`` means: the new release, resolved now and for ever."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from cluster_service.config.releases import may_stay, release_of
from cluster_service.core.model.spec import Release
from cluster_service.errors import CommandError
from tests.config.asking import make, sentence
from tests.config.asking import release as first
from tests.config.test_targets import fake_venv

if TYPE_CHECKING:
    from pathlib import Path


def upgraded(here: Path, target: str, current: Release | None = None, **options: Any) -> Release:
    return release_of(target, options, directory=str(here), current=current or first())


def a_release(here: Path, number: int) -> Path:
    """``releases/NUMBER``, where ``current`` points to."""
    directory = here / "releases" / str(number)
    directory.mkdir()
    (directory / "worker.py").write_text(f"print({number})\n")
    (directory / "shop.py").write_text("app = 1\n")
    (directory / "serve").write_text("#!/bin/sh\n")
    (directory / "serve").chmod(0o755)
    link = here / "current"
    link.unlink(missing_ok=True)
    link.symlink_to(directory)
    return directory


def test_a_symbolic_link_is_followed_now(here: Path) -> None:
    old = a_release(here, 41)
    before = first("current/worker.py", cwd="current")
    assert (before.target, before.cwd) == (f"{old}/worker.py", str(old))
    new = a_release(here, 42)
    after = upgraded(here, "current/worker.py", before, cwd="current")
    assert (after.target, after.cwd) == (f"{new}/worker.py", str(new))
    assert upgraded(here, "shop:app", before, cwd=str(here / "current")).cwd == str(new)
    (here / "app.py").symlink_to("current/worker.py")
    assert upgraded(here, "app.py", before).target == f"{new}/worker.py"


def test_the_start_and_the_command_start_follow_links_too(here: Path) -> None:
    from cluster_service import config

    directory = a_release(here, 41)
    group = config.group_settings("worker.py", {"cwd": str(here / "current")}, directory="/")
    assert (group.release.target, group.release.cwd) == (f"{directory}/worker.py", str(directory))


def test_a_program_keeps_the_name_that_it_is_called_by(here: Path) -> None:
    directory = a_release(here, 42)
    (directory / "busybox-like").symlink_to("serve")
    current = first("sh", "-c", "true", program=True)
    found = upgraded(here, "current/busybox-like", current, program=True)
    assert (found.kind, found.target, found.args) == ("command", f"{directory}/busybox-like", ("-c", "true"))
    assert upgraded(here, "current/serve", current).target == f"{directory}/serve"


def test_the_caller_s_directory_is_the_workers_unless_another_is_named(here: Path) -> None:
    current = replace(first(), cwd="/usr")
    assert upgraded(here, "releases/v2.py", current).cwd == str(here)
    found = upgraded(here, "v2.py", current, cwd="releases")
    assert (found.target, found.cwd) == (f"{here}/releases/v2.py", f"{here}/releases")


def test_what_is_not_given_stays(here: Path) -> None:
    current = replace(
        first("shop:application", bind=[":8001"], server="granian"), args=("a",), env=(("A", "1"), ("B", "2"))
    )
    assert upgraded(here, "shop:application", current) == current
    found = upgraded(here, "shop:application", current, env={"B": "3"}, args=["b"], bind=[":8002"], server="uvicorn")
    assert (found.env, found.args) == ((("A", "1"), ("B", "3")), ("b",))
    assert (found.binds, found.server) == (("0.0.0.0:8002",), "uvicorn")
    other = upgraded(here, "worker.py", current)
    assert (other.env, other.args, other.binds) == (current.env, (), ())


def test_how_ports_are_shared_stays_and_so_do_sockets_that_are_passed_on(here: Path) -> None:
    current = first("worker.py", share="inherit", bind=[":8001"])
    new = upgraded(here, "sh", current, program=True)
    assert (new.share, new.binds) == ("inherit", ("0.0.0.0:8001",))


def test_a_program_may_be_given_addresses_unless_it_shares_nothing(here: Path) -> None:
    assert upgraded(here, "worker.py", bind=[":80"]).binds == ("0.0.0.0:80",)
    told = sentence(lambda: upgraded(here, "worker.py", first("worker.py", share="none"), bind=[":80"]))
    assert "--bind" in told
    assert "--share none" in told


def test_its_own_virtual_environment_comes_first(here: Path) -> None:
    new = a_release(here, 42)
    own = fake_venv(new)
    current = replace(first(), python="/usr/bin/python3")
    assert upgraded(here, "current/worker.py", current).python == own
    assert upgraded(here, "shop:app", current, cwd="current").python == own
    assert upgraded(here, "current/worker.py", current, python=sys.executable).python == sys.executable
    assert upgraded(here, "sh", current, program=True).python == ""


def test_a_virtual_environment_whose_python_was_removed_is_not_passed_over(here: Path) -> None:
    own = here / "releases" / ".venv" / "bin" / "python"
    own.parent.mkdir(parents=True)
    own.symlink_to("/nowhere/python3")
    current = first()
    assert upgraded(here, "releases/v2.py", current).python == str(own)
    assert "does not start: No such file" in sentence(lambda: make("releases/v2.py"))


def test_a_virtual_environment_behind_a_link_is_pinned(here: Path) -> None:
    new = a_release(here, 42)
    (here / "venvs").mkdir()
    python = fake_venv(here / "venvs")
    (here / "venvs" / ".venv" / "pyvenv.cfg").write_text("home = /usr/bin\n")
    (new / ".venv").symlink_to(here / "venvs" / ".venv")
    assert upgraded(here, "current/worker.py").python == python
    assert upgraded(here, "worker.py", python="current/.venv").python == python
    (here / "venvs" / ".venv" / "bin").rename(here / "programs")
    (here / "venvs" / ".venv" / "bin").symlink_to(here / "programs")  # it would not be known for one from there
    assert upgraded(here, "current/worker.py").python == python


@pytest.mark.parametrize(
    ("current", "place", "stays"),
    [
        (Release("script", "/srv/1/worker.py", cwd="/srv/1", python="/usr/bin/python3"), "/srv/2", True),
        (Release("script", "/srv/1/worker.py", cwd="/srv/1", python="/opt/venv/bin/python"), "/srv/2", True),
        (Release("script", "/srv/1/worker.py", cwd="/srv/1", python="/srv/1/.venv/bin/python"), "/srv/2", False),
        (Release("script", "/srv/1/worker.py", cwd="/srv/1", python="/srv/1/.venv/bin/python"), "/srv/1", True),
        (Release("script", "/srv/1/worker.py", cwd="/srv", python="/srv/1/.venv/bin/python"), "/srv/2", False),
        (Release("script", "/srv/1/worker.py", cwd="/", python="/usr/bin/python3"), "/srv/2", True),
        (Release("script", "/srv/app/worker.py", cwd="/srv/app", python="/srv/app/.venv/bin/py"), "/srv/app/v2", True),
        (Release("app", "shop:app", cwd="/srv/1", python="/srv/1/.venv/bin/python"), "/srv/10", False),
        (Release("command", "/srv/1/serve", cwd="/srv/1"), "/srv/2", False),
    ],
)  # fmt: skip
def test_whether_the_present_interpreter_stays(current: Release, place: str, stays: bool) -> None:
    assert may_stay(current, place) is stays


def test_a_release_without_one_of_its_own_gets_ours_rather_than_its_predecessor_s(here: Path) -> None:
    old = a_release(here, 41)
    own = fake_venv(old)
    current = first("current/worker.py", cwd="current")
    assert current.python == own
    a_release(here, 42)
    assert upgraded(here, "current/worker.py", current, cwd="current").python == sys.executable
    assert upgraded(here, "current/worker.py", replace(current, python="/usr/bin/python3")).python == "/usr/bin/python3"


@pytest.mark.parametrize(
    ("target", "options", "words"),
    [
        ("nosuch.py", {}, ("no such file: nosuch.py",)),
        ("wroker.py", {}, ("did you mean 'worker.py'?",)),
        ("nosuch", {"program": True}, ("no program 'nosuch'",)),
        ("worker.py", {"cwd": "nowhere"}, ("cwd", "nowhere does not exist")),
        ("worker.py", {"cwd": "worker.py"}, ("is not a directory",)),
        ("worker.py", {"python": "nosuch-python"}, ("nosuch-python", "--python")),
        ("worker.py", {"env": ["A"]}, ("'A'", "NAME=VALUE")),
        ("shop:app", {"server": "gunicorn"}, ("gunicorn",)),
    ],
)
def test_what_cannot_be(here: Path, target: str, options: dict[str, Any], words: tuple[str, ...]) -> None:
    told = sentence(lambda: upgraded(here, target, **options))
    for word in words:
        assert word in told


def test_the_directory_of_the_caller_may_be_gone(here: Path) -> None:
    gone = here / "gone"
    current = first()
    told = sentence(lambda: release_of(str(here / "worker.py"), {}, directory=str(gone), current=current))
    assert f"the directory {gone} does not exist" in told


def test_the_interpreter_is_not_run(here: Path) -> None:
    (here / "python").write_text(f"#!/bin/sh\ntouch {here}/ran\n")
    (here / "python").chmod(0o755)
    assert upgraded(here, "broken.py", python="./python").python == f"{here}/python"
    assert not (here / "ran").exists()


def test_without_a_target_the_present_one_stays(here: Path) -> None:
    old, new = a_release(here, 41), a_release(here, 42)
    script, app = first(str(old / "worker.py"), cwd=str(old)), first("shop:app", cwd=str(old))
    program = first(str(old / "serve"), "x", cwd=str(old), program=True)
    outside = first("sh", "-c", "true", cwd=str(old), program=True)

    def moved(current: Release, **options: Any) -> Release:
        return release_of(None, options, directory=options.get("cwd", current.cwd), current=current)

    assert moved(script, env={"A": "1"}) == replace(script, env=(("A", "1"),))
    assert moved(script, cwd=str(new)) == replace(script, target=f"{new}/worker.py", cwd=str(new))
    assert moved(app, cwd=str(here / "current")) == replace(app, cwd=str(new))
    assert moved(program, cwd=str(new)) == replace(program, target=f"{new}/serve", cwd=str(new))
    assert moved(outside, cwd=str(new), args=["-c", "exit"]) == replace(outside, cwd=str(new), args=("-c", "exit"))
    (new / "worker.py").unlink()
    assert "no such file" in sentence(lambda: moved(script, cwd=str(new)))


def test_the_interpreter_that_was_chosen_stays_with_the_target(here: Path) -> None:
    chosen = fake_venv(here / "chosen")
    fake_venv(here)
    current = replace(first(), python=chosen)
    assert release_of(None, {"env": {"A": "1"}}, directory=current.cwd, current=current).python == chosen


def test_a_word_that_is_no_directory_may_have_been_meant_as_an_argument(here: Path) -> None:
    with pytest.raises(CommandError) as caught:
        upgraded(here, "worker.py", cwd=str(here / "runserver"))
    assert "upgrade all manage.py -- runserver" in caught.value.hint
