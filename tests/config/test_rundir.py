"""The private directory, and who runs a name."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cluster_service import config, rundir
from cluster_service.errors import CommandError
from tests.tools.shortage import ROOT, full, small_disk

if TYPE_CHECKING:
    from collections.abc import Iterator

NEEDS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a directory of somebody else")


def refusal(path: Path) -> str:
    with pytest.raises(CommandError) as caught:
        rundir.directory(str(path))
    with pytest.raises(CommandError):
        rundir.existing(str(path))
    assert caught.value.code == "bad_request"
    return f"{caught.value.message} {caught.value.hint}"


def test_where_it_is(tmp_path: Path) -> None:
    private, shared = tmp_path / "private", tmp_path / "shared"
    private.mkdir(mode=0o700)
    shared.mkdir(mode=0o755)
    tmp = {"TMPDIR": str(tmp_path)}
    uid = os.geteuid()
    table: list[tuple[dict[str, str], str]] = [
        ({"CSERVICE_RUN_DIR": "/own", "XDG_RUNTIME_DIR": str(private)}, "/own"),
        ({"RUNTIME_DIRECTORY": str(private), "XDG_RUNTIME_DIR": str(shared)}, str(private)),
        ({"RUNTIME_DIRECTORY": f"{private}:/other"}, str(private)),
        ({"RUNTIME_DIRECTORY": str(shared)}, f"{shared}/cluster-service"),
        ({"XDG_RUNTIME_DIR": str(private)}, f"{private}/cluster-service"),
    ]
    for environ, path in table:
        assert rundir.place(environ=environ) == path
    assert rundir.place("explicit", {"CSERVICE_RUN_DIR": "/own"}) == os.path.abspath("explicit")
    if not os.path.isdir(f"/run/user/{uid}"):
        assert rundir.place(environ=tmp) == f"{tmp_path}/cluster-service-{uid}"
        assert rundir.place(environ={**tmp, "XDG_RUNTIME_DIR": "/nosuch"}) == f"{tmp_path}/cluster-service-{uid}"
        assert rundir.place(environ={**tmp, "XDG_RUNTIME_DIR": "relative"}) == f"{tmp_path}/cluster-service-{uid}"
        assert rundir.place(environ={}) == f"/tmp/cluster-service-{uid}"


def test_it_is_made_private_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        path = rundir.directory(str(tmp_path / "a" / "b"))
    finally:
        os.umask(before)
    assert os.stat(path).st_mode & 0o777 == 0o700
    assert rundir.directory(path) == path


def test_looking_makes_nothing(tmp_path: Path) -> None:
    assert rundir.existing(str(tmp_path / "run")) is None
    assert rundir.find("default", str(tmp_path / "run")) is None
    assert rundir.running(str(tmp_path / "run")) == []
    assert not (tmp_path / "run").exists()


def test_a_directory_that_others_can_enter(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run").chmod(0o750)
    assert "chmod 700" in refusal(tmp_path / "run")


def test_a_symbolic_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "run").symlink_to(tmp_path / "real")
    assert "symbolic link" in refusal(tmp_path / "run")


def test_a_file(tmp_path: Path) -> None:
    (tmp_path / "run").touch()
    assert "not a directory" in refusal(tmp_path / "run")


@NEEDS_ROOT
def test_a_directory_of_somebody_else(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir(mode=0o700)
    os.chown(tmp_path / "run", 12345, 12345)
    assert "belongs to user 12345" in refusal(tmp_path / "run")
    os.chown(tmp_path, 12345, 12345)
    environ = {"XDG_RUNTIME_DIR": str(tmp_path), "TMPDIR": "/tmp"}
    assert not rundir.place(environ=environ).startswith(str(tmp_path))


@pytest.fixture
def short() -> Iterator[Path]:
    """A directory whose path leaves room for that of a socket."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        yield Path(name)


@pytest.fixture
def shared(short: Path) -> dict[str, str]:
    """An environment where everybody can write to the place of run directories, as to /tmp, and with a home."""
    (short / "tmp").mkdir()
    (short / "tmp").chmod(0o1777)
    return {"TMPDIR": str(short / "tmp"), "HOME": str(short / "home")}


NO_SYSTEM_PLACE = pytest.mark.skipif(
    os.path.isdir(f"/run/user/{os.geteuid()}"), reason="this user has a run directory of the system's"
)


def squat(place: Path, how: str) -> None:
    """Create what another user could have created at *place*."""
    if how == "directory":
        place.mkdir(mode=0o700)
        os.chown(place, 12345, 12345)
    elif how == "symlink":
        place.symlink_to("/etc")
    elif how == "fifo":
        os.mkfifo(place)
    else:
        place.mkdir()
        place.chmod(0o777)


@NO_SYSTEM_PLACE
@NEEDS_ROOT
@pytest.mark.parametrize("how", ["directory", "symlink", "fifo", "open"])
def test_a_place_that_another_user_has_taken_costs_nothing(short: Path, shared: dict[str, str], how: str) -> None:
    taken = short / "tmp" / f"cluster-service-{os.geteuid()}"
    private = str(short / "home" / ".local" / "state" / "cluster-service" / "run")
    squat(taken, how)
    assert rundir.existing(environ=shared) is None
    assert rundir.find("web", environ=shared) is None
    (short / "worker.py").touch()
    settings = config.settings({}, target="worker.py", directory=str(short), environ=dict(shared))
    assert settings.run_dir == private
    (warning,) = settings.warnings
    assert str(taken) in warning
    assert f"the run directory is {private} instead" in warning
    assert "--run-dir" in warning or "chmod 700" in warning
    lock = rundir.take_lock(private, "web")
    assert rundir.find("web", environ=shared) == (private, rundir.holder(private, "web"))
    assert [holder.name for holder in rundir.running(environ=shared)] == ["web"]
    taken.rmdir() if taken.is_dir() and not taken.is_symlink() else taken.unlink()
    found = rundir.find("web", environ=shared)
    assert found is not None, "also when the other user takes it away again"
    assert found[0] == private
    os.close(lock)


@NO_SYSTEM_PLACE
def test_services_of_both_places_are_found(short: Path, shared: dict[str, str]) -> None:
    first = rundir.directory(environ=shared)
    assert first == str(short / "tmp" / f"cluster-service-{os.geteuid()}")
    second = rundir.directory(str(short / "home" / ".local" / "state" / "cluster-service" / "run"))
    locks = [rundir.take_lock(first, "a"), rundir.take_lock(second, "b")]
    assert [holder.name for holder in rundir.running(environ=shared)] == ["a", "b"]
    found = [rundir.find(name, environ=shared) for name in "abc"]
    assert [each and each[0] for each in found] == [first, second, None]
    for lock in locks:
        os.close(lock)


@NO_SYSTEM_PLACE
def test_a_place_that_could_be_replaced_is_not_used(short: Path, shared: dict[str, str]) -> None:
    (short / "tmp").chmod(0o777)
    assert rundir.directory(environ=shared) == str(short / "home" / ".local" / "state" / "cluster-service" / "run")
    refusal = rundir.refused(environ=shared)
    assert refusal is not None
    assert "could be replaced by another user" in refusal.message


def test_a_place_that_was_chosen_has_no_other(tmp_path: Path) -> None:
    assert rundir.candidates("here", {"HOME": "/x"}) == [os.path.abspath("here")]
    assert rundir.candidates(environ={"CSERVICE_RUN_DIR": "/own", "HOME": "/x"}) == ["/own"]
    assert rundir.candidates(environ={"XDG_RUNTIME_DIR": str(tmp_path), "HOME": "/x"}) == [
        f"{tmp_path}/cluster-service"
    ]


def test_a_lock_that_is_a_fifo_holds_nothing_up(tmp_path: Path) -> None:
    directory = rundir.directory(str(tmp_path / "run"))
    os.mkfifo(rundir.lock_path(directory, "web"))
    assert rundir.holder(directory, "web") is None
    assert rundir.running(directory) == []
    with pytest.raises(CommandError, match="not a regular file"):
        rundir.take_lock(directory, "web")


def test_a_directory_that_cannot_be_made() -> None:
    with pytest.raises(CommandError, match="cannot be made"):
        rundir.directory("/proc/nosuch/run")


@pytest.mark.parametrize("name", ["web", "W", "a.b-c_d1", "x" * 64])
def test_names(name: str) -> None:
    assert rundir.check_name(name) == name


@pytest.mark.parametrize("name", ["", "1", "-a", ".a", "a/b", "..", "a b", "x" * 65, "ä", "a\n", "a\0"])
def test_bad_names(name: str) -> None:
    with pytest.raises(CommandError, match="cannot be a name"):
        rundir.check_name(name)


def test_the_longest_path_of_a_socket() -> None:
    with pytest.raises(CommandError, match="107 bytes"):
        rundir.socket_path("/" + "x" * 100, "default")


def test_the_lock(tmp_path: Path) -> None:
    directory = rundir.directory(str(tmp_path / "run"))
    assert rundir.holder(directory, "web") is None
    lock = rundir.take_lock(directory, "web")
    held = rundir.holder(directory, "web")
    assert held is not None
    assert (held.name, held.pid) == ("web", os.getpid())
    assert rundir.find("web", directory) == (directory, held)
    assert rundir.running(directory) == [held]
    with pytest.raises(rundir.Held, match=f"pid {os.getpid()}") as caught:
        rundir.take_lock(directory, "web")
    assert caught.value.holder == held
    rundir.write_lock(lock, "web", 7)
    assert rundir.holder(directory, "web") == rundir.Holder("web", 7, held.since)
    os.close(rundir.take_lock(directory, "other"))
    os.close(lock)
    assert rundir.holder(directory, "web") is None
    assert rundir.running(directory) == []
    os.close(rundir.take_lock(directory, "web"))


def test_a_lock_that_is_removed_by_its_holder_is_not_taken_for_the_new_one(tmp_path: Path) -> None:
    directory = rundir.directory(str(tmp_path / "run"))
    first = rundir.take_lock(directory, "web")
    os.unlink(rundir.lock_path(directory, "web"))
    second = rundir.take_lock(directory, "web")
    assert rundir.holder(directory, "web") is not None
    os.close(first)
    assert rundir.holder(directory, "web") is not None
    os.close(second)


def test_a_lock_file_is_no_symbolic_link(tmp_path: Path) -> None:
    directory = rundir.directory(str(tmp_path / "run"))
    (tmp_path / "target").touch()
    os.symlink(tmp_path / "target", rundir.lock_path(directory, "web"))
    assert rundir.holder(directory, "web") is None
    with pytest.raises(CommandError, match="symbolic"):
        rundir.take_lock(directory, "web")
    assert (tmp_path / "target").read_text() == ""


def test_a_lock_without_words_is_a_service_that_is_just_starting(tmp_path: Path) -> None:
    directory = rundir.directory(str(tmp_path / "run"))
    lock = rundir.take_lock(directory, "web")
    os.ftruncate(lock, 0)
    assert rundir.holder(directory, "web") == rundir.Holder("web", 0, "")
    os.close(lock)


def test_those_who_look_never_keep_a_service_from_starting(tmp_path: Path) -> None:
    directory = rundir.directory(str(tmp_path / "run"))
    os.close(rundir.take_lock(directory, "web"))
    look = f"from cluster_service import rundir\nfor _ in range(2000): rundir.holder({directory!r}, 'web')"
    lookers = [subprocess.Popen([sys.executable, "-c", look]) for _ in range(2)]
    while any(looker.poll() is None for looker in lookers):
        os.close(rundir.take_lock(directory, "web"))
    assert [looker.wait() for looker in lookers] == [0, 0]


def test_waiting_for_the_end(tmp_path: Path) -> None:
    directory = rundir.directory(str(tmp_path / "run"))
    path = rundir.lock_path(directory, "web")
    assert rundir.wait_free(path, 0.0)
    lock = rundir.take_lock(directory, "web")
    assert not rundir.wait_free(path, 0.0)
    assert not rundir.wait_free(path, 0.05)
    freed: list[bool] = []
    waiter = threading.Thread(target=lambda: freed.append(rundir.wait_free(path, 20)))
    waiter.start()
    os.close(lock)
    waiter.join()
    assert freed == [True]


NOWHERE = {"TMPDIR": "/proc/nosuch"}
"""An environment in which no directory can be made: not even root can, in /proc."""


@pytest.mark.skipif(os.path.isdir(f"/run/user/{os.geteuid()}"), reason="this user has a run directory of the system's")
def test_where_no_directory_can_be_made_a_service_goes_without(tmp_path: Path) -> None:
    (tmp_path / "worker.py").touch()

    def made(**options: object) -> config.Settings:
        return config.settings(options, target="worker.py", directory=str(tmp_path), environ=dict(NOWHERE))

    settings = made()
    assert settings.run_dir == ""
    (warning,) = settings.warnings
    assert "/proc/nosuch/cluster-service-" in warning
    assert "runs without a control socket" in warning
    assert "--run-dir" in warning
    for needs_one in (
        {"detach": True},
        {"access_key": "auto"},
        {"require_control": True},
        {"run_dir": "/proc/nosuch/x"},
    ):
        with pytest.raises(CommandError) as caught:
            made(**needs_one)
        assert "cannot be made" in caught.value.message


@pytest.mark.parametrize(
    ("environ", "place"),
    [
        ({"HOME": "/home/ann"}, "/home/ann/.local/state/cluster-service/web.audit"),
        ({"HOME": "/home/ann", "XDG_STATE_HOME": "/state"}, "/state/cluster-service/web.audit"),
        ({"HOME": "/home/ann", "XDG_STATE_HOME": "relative"}, "/home/ann/.local/state/cluster-service/web.audit"),
        ({"HOME": "/root", "STATE_DIRECTORY": "/var/lib/shop:/var/lib/more"}, "/var/lib/shop/web.audit"),
        ({"STATE_DIRECTORY": "/var/lib/shop", "LOGS_DIRECTORY": "/var/log/shop"}, "/var/log/shop/web.audit"),
        ({"HOME": "relative"}, None),
        ({}, None),
    ],
)
def test_where_commands_are_written_down(environ: dict[str, str], place: str | None) -> None:
    assert rundir.audit_path("web", environ) == place


@pytest.mark.skipif(not ROOT, reason="only root can mount a small disk")
def test_on_a_full_disk_nothing_starts_and_nothing_is_left(tmp_path: Path) -> None:
    with small_disk(tmp_path):
        with full(tmp_path):
            with pytest.raises(CommandError, match=r"web\.lock cannot be written: the disk is full") as caught:
                rundir.take_lock(str(tmp_path), "web")
            assert "--run-dir" in caught.value.hint
            assert [path.name for path in tmp_path.iterdir()] == ["ballast"]
        os.close(rundir.take_lock(str(tmp_path), "web"))
