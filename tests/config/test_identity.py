"""What a configuration or a release names is executed and opened as the user of its workers, never as the service."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster_service.config import as_user, environment_files, interpreter_probe, user_programs
from cluster_service.config.releases import check_release, release_of
from cluster_service.core.model.spec import ProcessLimits, Release
from cluster_service.errors import CommandError
from cluster_service.machine import identity
from tests.config.asking import make, release, sentence

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can run workers as somebody else")

ANSWER = """echo '{"version": [3, 12]}'"""


@pytest.fixture
def place(open_place: Path) -> Path:
    """A directory of user 65534's, who may change everything in it; the caller's directory."""
    os.chown(open_place, 65534, 65534)
    (open_place / "worker.py").write_text("")
    return open_place


def nobody() -> identity.Identity:
    return identity.of("65534", "65534")


def hostile_python(place: Path, text: str = ANSWER) -> str:
    """A virtualenv's interpreter that notes in the file ``who`` as whom, and with which groups, it was run."""
    python = place / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f"#!/bin/sh\n(id -u; id -G) >> {place}/who\n{text}\n")
    python.chmod(0o755)
    return str(python)


USER: dict[str, Any] = {"user": "65534", "user_group": "65534"}


def test_the_interpreter_of_a_group_is_probed_as_its_user(place: Path) -> None:
    python = hostile_python(place)
    settings = make("worker.py", **USER)
    assert settings.spec.groups[0].release.python == python
    assert (place / "who").read_text() == "65534\n65534\n"
    release_now = settings.spec.groups[0].release
    check_release(release_now, identity=nobody(), environ=dict(os.environ))
    assert set((place / "who").read_text().split()) == {"65534"}


def test_variables_for_the_workers_reach_no_process_of_the_service(place: Path) -> None:
    """LD_PRELOAD would be a library of the user's in a process of root's."""
    python = hostile_python(place, f"""env > {place}/env; {ANSWER}""")
    loaded = user_programs.run_as(
        nobody(), [python], cwd="/", env={"LD_PRELOAD": "/nosuch.so", "PATH": os.defpath}, seconds=20
    )
    assert "LD_PRELOAD=/nosuch.so" in (place / "env").read_text()
    complaints = loaded.err.count("ld.so: object '/nosuch.so'")  # by sh and what sh runs, and by none of ours
    alone = user_programs.run_as(nobody(), [python], cwd="/", env={"PATH": os.defpath}, seconds=20)
    assert "ld.so" not in alone.err
    commands = 1 + 3  # the shell; id, id and env
    assert complaints in (0, commands)


def test_what_is_run_can_gain_no_rights_and_has_none_of_our_descriptors(place: Path) -> None:
    with open("/etc/shadow" if os.path.exists("/etc/shadow") else __file__, "rb") as secret:
        os.set_inheritable(secret.fileno(), True)
        python = hostile_python(
            place, "grep NoNewPrivs /proc/self/status; ls -l /proc/self/fd | grep -c -e '-> /[^dp]'"
        )
        ended = user_programs.run_as(nobody(), [python], cwd="/", env=dict(os.environ), seconds=20)
    assert ended.out.split() == ["NoNewPrivs:", "1", "0"]


def test_the_directory_is_entered_as_that_user(place: Path) -> None:
    python = hostile_python(place)
    (place / "closed").mkdir(mode=0o700)
    found = Release("script", str(place / "worker.py"), cwd=str(place / "closed"), python=python)
    with pytest.raises(CommandError, match="does not start: cannot enter"):
        check_release(found, identity=nobody(), environ=dict(os.environ))
    assert "cannot be entered by user 65534" in sentence(lambda: release(cwd=str(place / "closed"), **USER))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("yes", "answered with more than 1 MiB"),
        ("yes >&2", "answered with more than 1 MiB"),
        ("sleep 1000", "did not answer in"),
        ("(setsid sleep 1000 &) ; sleep 1000", "did not answer in"),
        ("printf '[%.0s' $(seq 100000); echo", "does not answer as a Python interpreter would"),
        ("""echo '{"version": [3, 1e999]}'""", "does not answer as a Python interpreter would"),
        ("""echo '{"version": [3, 12], "broken": [1]}'""", "does not answer as a Python interpreter would"),
        ("""echo '["version"]'""", "does not answer as a Python interpreter would"),
        ("""printf '\\033[2J\\377' >&2""", "does not answer as a Python interpreter would"),
    ],
)
def test_an_answer_is_bounded_and_checked(place: Path, text: str, words: str) -> None:
    python = hostile_python(place, text)
    environ = dict(os.environ)
    with pytest.raises(CommandError, match=words) as caught:
        interpreter_probe.asked(python, "app", "shop:app", identity=nobody(), cwd="/", environ=environ, timeout=3)
    assert "\033" not in caught.value.message
    assert len(caught.value.message) < 1000


def test_names_in_an_answer_cannot_forge_the_message(place: Path) -> None:
    names = ["x" * 500, "a\nb\033c"] * 1000
    (place / "answer").write_text(json.dumps({"version": [3, 12], "file": "shop.py", "names": names, "more": 1}))
    python = hostile_python(place, f"cat {place}/answer; echo")
    found = interpreter_probe.asked(python, "app", "shop:app", identity=nobody(), cwd="/", environ=dict(os.environ))
    assert set(found) == {"file", "names"}
    kept = found["names"]
    assert isinstance(kept, list)
    assert len(kept) == interpreter_probe.MAX_NAMES
    assert max(map(len, kept)) <= 300
    assert not any("\033" in name or "\n" in name for name in kept)


def test_paths_are_followed_with_the_rights_of_that_user(place: Path) -> None:
    """A link to what only root can read is no file, and no word of it is told."""
    with tempfile.TemporaryDirectory(dir="/tmp") as closed:  # 0700, root's
        (Path(closed) / "secret.py").write_text("")
        (place / "worker.py").unlink()
        (place / "worker.py").symlink_to(f"{closed}/secret.py")
        assert release(within_root := "worker.py").target == f"{closed}/secret.py", "root may"
        assert "no such file" in sentence(lambda: release(within_root, **USER))
        current = replace(Release("script", "/srv/x.py", cwd="/"), within=ProcessLimits(**USER))
        with pytest.raises(CommandError, match="no such file"):
            release_of("worker.py", {}, directory=str(place), current=current)


def test_what_is_private_to_that_user_is_found(place: Path) -> None:
    release_now = release(**USER)
    assert release_now.target == f"{place}/worker.py"
    assert release_of("worker.py", {}, directory=str(place), current=release_now) == release_now


def test_files_that_are_not_read_in_time_are_an_error(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(as_user, "SECONDS", 0.001)
    with pytest.raises(CommandError, match="could not be read within"):
        as_user.call(nobody(), "script", f"{place}/worker.py", str(place))


def test_variables_in_a_file_that_the_user_can_replace_are_read_as_the_user(place: Path) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as closed:  # root's
        secret = Path(closed) / "secret.env"
        secret.write_text("PASSWORD=of-another-service\n")
        (place / "link.env").symlink_to(secret)
        told = sentence(lambda: release(env_files=["link.env"], **USER))
        assert "Permission denied" in told
        assert "It is read as user" in told
    (place / "own.env").write_text("A=1\n")
    assert release(env_files=["own.env"], **USER).env_from_files == (("A", "1"),)


@pytest.mark.parametrize("where", ["/tmp", "/root"])
def test_a_file_that_only_root_can_change_is_read_as_root(where: str) -> None:
    with tempfile.TemporaryDirectory(dir=where) as closed:
        secret = Path(closed) / "secret.env"
        secret.write_text("PASSWORD=p\n")
        secret.chmod(0o600)
        assert environment_files.read([str(secret)], nobody()) == (("PASSWORD", "p"),)
        secret.chmod(0o666)
        with pytest.raises(CommandError, match="Permission denied"):
            environment_files.read([str(secret)], nobody())
        secret.unlink()
        assert environment_files.read([f"-{secret}"], nobody()) == ()


def test_every_link_on_the_way_counts(place: Path) -> None:
    with tempfile.TemporaryDirectory(dir="/root") as closed:
        (Path(closed) / "secret.env").write_text("")
        (Path(closed) / "own.env").symlink_to("secret.env")
        (place / "hop").symlink_to(f"{closed}/secret.env")
        (Path(closed) / "other.env").symlink_to(place / "hop")
        (Path(closed) / "loop.env").symlink_to("loop.env")
        (Path(closed) / "up.env").symlink_to("../secret.env")
        names = ("own", "other", "loop", "up")
        found = {name: environment_files.is_ours_alone(f"{closed}/{name}.env") for name in names}
    assert found == {"own": True, "other": False, "loop": False, "up": False}


def test_a_file_that_anyone_could_create_is_not_read_as_root() -> None:
    assert not environment_files.is_ours_alone("/tmp/no-such-file.env")
    assert environment_files.is_ours_alone("/etc/no-such-file.env")


def test_a_fifo_is_no_file_of_variables(place: Path) -> None:
    os.mkfifo(place / "fifo.env")
    assert "not a file" in sentence(lambda: release(env_files=["fifo.env"]))
    assert "not a file" in sentence(lambda: release(env_files=["fifo.env"], **USER))
