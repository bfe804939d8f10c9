"""No other user can lead a file of the service elsewhere. The tests play that user by giving files away, as root."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from cluster_service.machine import files

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

OTHER = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")


def append(path: Path, data: bytes = b"line\n") -> None:
    descriptor = files.open_for_append(str(path))
    try:
        os.write(descriptor, data)
    finally:
        os.close(descriptor)


def replace(path: Path) -> None:
    files.replace(str(path), b"line\n", 0o600, follow=True)


def rotate(path: Path) -> None:
    with path.open("rb") as opened:
        files.rotate(str(path), 2, opened.fileno())


def refuses(what: Callable[[], object], *words: str) -> None:
    with pytest.raises(files.Refused) as refused:
        what()
    for word in words:
        assert word in str(refused.value.strerror)


def directory(path: Path, *, owner: int = 0, mode: int = 0o755) -> Path:
    path.mkdir()
    path.chmod(mode)
    os.chown(path, owner, owner)
    return path


# ------------------------------------------------------------------ what is honest goes on working


def test_a_file_is_made_and_appended_to(tmp_path: Path) -> None:
    for _ in range(2):
        append(tmp_path / "app.log")
    assert (tmp_path / "app.log").read_bytes() == b"line\nline\n"
    assert stat.S_IMODE((tmp_path / "app.log").stat().st_mode) & ~0o640 == 0


def test_links_of_our_own_are_followed(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "log").symlink_to("disk")
    (tmp_path / "disk" / "app.log").symlink_to("../disk/real.log")
    append(tmp_path / "log" / "app.log")
    assert (tmp_path / "disk" / "real.log").read_bytes() == b"line\n"
    replace(tmp_path / "log" / "app.log")
    assert (tmp_path / "disk" / "app.log").is_symlink()
    (tmp_path / "null").symlink_to("/dev/null")
    append(tmp_path / "null")


STDOUT = ("/dev/stdout", "/dev/fd/1", "/proc/self/fd/1")


@pytest.mark.parametrize(
    ("path", "kind"),
    [(path, kind) for kind in ("pipe", "file", "socket") for path in STDOUT]
    + [("/proc/{pid}/fd/1", "pipe"), ("/proc/{pid}/fd/1", "file")],
)
def test_standard_output_under_its_names(tmp_path: Path, path: str, kind: str) -> None:
    code = (
        "import os, sys\nfrom cluster_service.machine import files\n"
        f"os.write(files.open_for_append({path!r}.format(pid=os.getpid())), b'line\\n')"
    )
    reading, writing = both_ends(kind, tmp_path / "out")
    subprocess.run([sys.executable, "-c", code], stdout=writing, check=True)
    assert os.read(reading, 100) == b"line\n"
    os.close(reading)
    os.close(writing)


def both_ends(kind: str, path: Path) -> tuple[int, int]:
    if kind == "pipe":
        return os.pipe()
    if kind == "file":
        writing = os.open(path, os.O_WRONLY | os.O_CREAT)
        return os.open(path, os.O_RDONLY), writing
    ours, theirs = socket.socketpair()
    return ours.detach(), theirs.detach()


def test_a_fifo_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(OSError, match="No such device"):
        append(tmp_path / "fifo")
    reader = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    append(tmp_path / "fifo")
    assert os.read(reader, 100) == b"line\n"
    os.close(reader)


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    (tmp_path / "state.new").write_text("of one that was killed")
    replace(tmp_path / "state")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"state": "line\n"}
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o600
    (tmp_path / "link").symlink_to("state")
    files.replace(str(tmp_path / "link"), b"1\n", 0o600, follow=False)
    assert (tmp_path / "state").read_text() == "line\n"
    assert (tmp_path / "link").read_text() == "1\n"


@pytest.mark.parametrize("what", [append, replace, rotate])
def test_what_cannot_be_is_the_errors_of_the_system(tmp_path: Path, what: Callable[[Path], None]) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").touch()
    for path in ("none/file", "file/file", "loop", "loop/file"):
        with pytest.raises(OSError, match=r"No such file|Not a directory|Too many levels"):
            what(tmp_path / path)


@as_root
def test_the_file_of_another_user_where_only_root_can_have_put_it(tmp_path: Path) -> None:
    """As logrotate makes it: create 0640 www-data adm."""
    (tmp_path / "app.log").touch()
    os.chown(tmp_path / "app.log", OTHER, OTHER)
    append(tmp_path / "app.log")


@as_root
def test_a_directory_of_another_user_is_used_with_care(tmp_path: Path) -> None:
    """As with sudo in the user's own directory."""
    folder = directory(tmp_path / "home", owner=OTHER)
    append(folder / "app.log")
    append(folder / "app.log")
    rotate(folder / "app.log")
    append(folder / "app.log")
    assert sorted(path.name for path in folder.iterdir()) == ["app.log", "app.log.1"]


# ------------------------------------------------------------------ and what another user has planted does nothing


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    path = tmp_path / "victim"
    path.write_text("precious")
    return path


WRITABLE = {
    "theirs": {"owner": OTHER},
    "sticky, as /tmp": {"mode": 0o1777},
    "their group's": {"mode": 0o775},
}


@as_root
@pytest.mark.parametrize("where", WRITABLE)
def test_a_planted_link(tmp_path: Path, victim: Path, where: str) -> None:
    folder = directory(tmp_path / "log", **WRITABLE[where])
    (folder / "app.log").symlink_to(victim)
    os.lchown(folder / "app.log", OTHER, OTHER)
    refuses(lambda: append(folder / "app.log"), "is a symbolic link", str(OTHER))
    refuses(lambda: replace(folder / "app.log"), "is a symbolic link")
    refuses(lambda: files.open_for_reading(str(folder / "app.log")), "is a symbolic link")
    refuses(lambda: rotate(folder / "app.log"), "is a symbolic link")
    refuses(lambda: files.add_suffix(str(folder / "app.log"), ".bad"), "is a symbolic link")
    files.remove(str(folder / "app.log"))
    assert victim.read_text() == "precious"


@as_root
@pytest.mark.parametrize("where", WRITABLE)
def test_a_planted_link_instead_of_a_directory(tmp_path: Path, where: str) -> None:
    folder = directory(tmp_path / "log", **WRITABLE[where])
    (tmp_path / "secret").mkdir()
    (folder / "app").symlink_to(tmp_path / "secret")
    os.lchown(folder / "app", OTHER, OTHER)
    refuses(lambda: append(folder / "app" / "app.log"), "is a symbolic link")
    assert list((tmp_path / "secret").iterdir()) == []


@as_root
@pytest.mark.parametrize("where", WRITABLE)
def test_a_planted_file_or_second_name(tmp_path: Path, victim: Path, where: str) -> None:
    folder = directory(tmp_path / "log", **WRITABLE[where])
    (folder / "theirs").touch()
    os.chown(folder / "theirs", OTHER, OTHER)
    refuses(lambda: append(folder / "theirs"), "belongs to user 65534", "others can write to its directory")
    (folder / "second").hardlink_to(victim)
    refuses(lambda: append(folder / "second"), "second name")
    os.mkfifo(folder / "fifo")
    os.chown(folder / "fifo", OTHER, OTHER)
    with pytest.raises(OSError, match=r"No such device|belongs to"):
        append(folder / "fifo")
    assert victim.read_text() == "precious"


@as_root
def test_a_planted_link_instead_of_the_new_file(tmp_path: Path, victim: Path) -> None:
    folder = directory(tmp_path / "log", owner=OTHER)
    (folder / "state.new").symlink_to(victim)
    replace(folder / "state")
    assert (folder / "state").read_text() == "line\n"
    assert victim.read_text() == "precious"


@as_root
def test_a_file_that_was_exchanged_is_not_rotated(tmp_path: Path) -> None:
    path = tmp_path / "app.log"
    path.touch()
    with path.open("rb") as opened:
        path.rename(tmp_path / "elsewhere")
        path.touch()
        refuses(lambda: files.rotate(str(path), 1, opened.fileno()), "another file has taken its place")
    assert not (tmp_path / "app.log.1").exists()


def test_a_directory_that_every_user_can_write_to(tmp_path: Path) -> None:
    folder = tmp_path / "all"
    folder.mkdir()
    folder.chmod(0o777)
    for what in (append, replace):
        refuses(lambda what=what: what(folder / "app.log"), f"every user can write to {folder}", "chmod o-w")  # type: ignore[misc]
    assert list(folder.iterdir()) == []


@as_root
def test_before_the_start_a_directory_of_the_workers_user_is_refused_and_nothing_changes(tmp_path: Path) -> None:
    users = [("www", OTHER, [OTHER, 1234])]
    for name, how in {"a": {"owner": OTHER}, "b": {"owner": OTHER, "mode": 0o1755}}.items():
        folder = directory(tmp_path / name, **how)
        refuses(lambda folder=folder: files.check(str(folder / "x"), users), "workers run as www", str(folder))  # type: ignore[misc]
    folder = directory(tmp_path / "group", mode=0o775)
    files.check(str(folder / "x"), users)
    os.chown(folder, 0, 1234)
    refuses(lambda: files.check(str(folder / "x"), users), "workers run as www")
    sticky = directory(tmp_path / "sticky", mode=0o1777)
    files.check(str(sticky / "x"), users)
    files.check("/dev/stdout", users)
    files.check("/dev/null", users)
    assert not any(folder.iterdir())
